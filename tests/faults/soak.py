"""Runs services for long under mixed load, and judges what they take: `python -m tests.faults.soak --seconds 600`.

Two inference services and a compositing service before them. Callers ask for batches, hold sessions, make mistakes, give up, come
and go on connections of their own; avatars are loaded and unloaded; the second inference service is ended and killed in turn, and
comes back. No good call may fail. Memory, descriptors and threads of the two others, and the time of a small call, must not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import numpy as np

from lipsync_client import AsyncClient, Frame, LipsyncError
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from ..end_to_end.avatars import write_avatar
from ..end_to_end.processes import Service, assert_no_trace, free_port, resident_mb, running, threads_of
from .conftest import request_of
from .slopes import Rule, Series, Verdict, judged

SAMPLE_S = 0.25
RESTART_S = 12.0
PATIENCE_S = 60.0
RULES = {
    "memory": Rule("MiB", growth=12, per_minute=1),
    "descriptors": Rule("", growth=6),
    "threads": Rule("", growth=3),
    "latency": Rule("ms", growth=10, share=0.5),
}
LEAKS = {
    "memory": "kept.append(b'x' * (1 << 20)); time.sleep(0.4)",
    "descriptors": "kept.append(open('/dev/null')); time.sleep(0.5)",
    "threads": "threading.Thread(target=threading.Event().wait, daemon=True).start(); time.sleep(0.7)",
}
"""Step that a leak planted into the compositing service takes again and again."""


def planted(leaks: Sequence[str], folder: Path) -> list[str]:
    """A command in front of a service that leaks in these ways."""
    loops = [f"while True:\n        {LEAKS[leak]}" for leak in leaks]
    functions = "\n".join(f"def leak{number}():\n    {loop}" for number, loop in enumerate(loops))
    starts = "\n".join(f"threading.Thread(target=leak{number}, daemon=True).start()" for number in range(len(loops)))
    (folder / "sitecustomize.py").write_text(f"import threading, time\nkept = []\n{functions}\n{starts}\n")
    return ["env", f"PYTHONPATH={folder}"]


@dataclass
class Soak:
    """One run."""

    compositing: Service
    inference: Service
    seconds: float
    failures: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    _chance: random.Random = field(default_factory=lambda: random.Random(1))
    _began_s: float = field(default_factory=time.monotonic)

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._began_s

    async def run(self, restarts: Callable[[], Awaitable[None]]) -> None:
        """Keeps all callers at work until the time is over."""
        work = [self._batches, self._batches, self._sessions, self._sessions, self._mistakes, self._loads, self._small_calls]
        callers = [self._again(each.__name__, each) for each in work]
        await asyncio.gather(self._watch(), self._again("restarts", restarts), *callers)

    async def _again(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while self.now_s < self.seconds:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await work()
                self.done[name] += 1
            except (LipsyncError, grpc.RpcError, AssertionError, TimeoutError) as error:
                self.failures.append(f"{self.now_s:.1f} s: {name}: {type(error).__name__} {str(error)[:200]}")

    async def _watch(self) -> None:
        while self.now_s < self.seconds:
            for name, service in (("compositing", self.compositing), ("inference", self.inference)):
                self.series[f"{name} memory"].append((self.now_s, resident_mb(service)))
                self.series[f"{name} descriptors"].append((self.now_s, len(os.listdir(f"/proc/{service.process.pid}/fd"))))
                self.series[f"{name} threads"].append((self.now_s, threads_of(service)))
            await asyncio.sleep(SAMPLE_S)

    async def _batches(self) -> None:
        sound = np.full(640 * 30, 0.1, np.float32)
        async with AsyncClient(self.compositing.address) as client:
            frames = [frame async for frame in client.frames("small", sound)]
        assert len(frames) == 30
        await asyncio.sleep(0.2)

    async def _sessions(self) -> None:
        async with AsyncClient(self.compositing.address) as client, client.session("small") as session:

            async def speak() -> None:
                await session.push(np.full(640 * 25, 0.1, np.float32))
                await session.close()

            speaking = asyncio.create_task(speak())
            frames = [event async for event in session if isinstance(event, Frame) and event.audio is not None]
            await speaking
        assert len(frames) == 25

    async def _mistakes(self) -> None:
        """Bad requests, which must be told so, and calls that are given up."""
        async with grpc.aio.insecure_channel(self.compositing.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            stub = CompositingServiceStub(channel)
            for bad, code in ((request_of("nobody"), "NOT_FOUND"), (request_of("../x"), "INVALID_ARGUMENT")):
                told = await stub.InferBatchComposite(bad, timeout=30).code()
                assert told.name == code, told
            call = stub.InferBatchComposite(request_of(frames=20), timeout=30)
            await asyncio.sleep(self._chance.uniform(0, 0.05))
            call.cancel()
        await asyncio.sleep(0.2)

    async def _loads(self) -> None:
        async with AsyncClient(self.compositing.address) as client:
            try:
                await client.load("other", force_reload=True, timeout=60)
            except LipsyncError as error:  # a load is for all inference services, and one of them may be away
                if error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
            assert len([frame async for frame in client.frames("other", np.zeros(640 * 4, np.float32))]) == 4
        await asyncio.sleep(1)

    async def _small_calls(self) -> None:
        async with AsyncClient(self.compositing.address) as client:
            for _ in range(10):
                began_s = time.perf_counter()
                await client.idle("small", 1)
                self.series["latency"].append((self.now_s, (time.perf_counter() - began_s) * 1000))
                await asyncio.sleep(0.05)


def verdicts(series: dict[str, list[tuple[float, float]]], seconds: float) -> list[Verdict]:
    """Judges all figures after a third of the time, two minutes at most."""
    warm_up_s = min(120.0, seconds / 3)
    found: dict[str, Series] = dict(series)
    return [judged(name, each, RULES[name.split()[-1]], warm_up_s=warm_up_s) for name, each in found.items()]


def soak(seconds: float, leaks: Sequence[str] = ()) -> tuple[list[Verdict], list[str], Counter[str]]:
    """Runs for so long. Returns the verdicts, the failures of good calls, and how often each kind of work was done."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root = folder / "models"
        root.mkdir()
        write_avatar(root, "small")
        write_avatar(root, "other", seed=50, frames=3)
        before = planted(leaks, folder) if leaks else ()
        common, port = f"models_root={root}", free_port()
        inference = stack.enter_context(running("inference", common, log=folder / "inference"))
        url = f"inference_server.url={inference.address},127.0.0.1:{port}"
        compositing = stack.enter_context(running("compositing", common, url, log=folder / "compositing", before=before))
        other = stack.enter_context(ExitStack())
        how = iter([signal.SIGTERM, signal.SIGKILL] * 100_000)

        def restart() -> None:
            own = other.enter_context(running("inference", common, f"server.port=127.0.0.1:{port}", log=folder / "other"))
            run.done["starts"] += 1
            deadline = min(run.now_s + RESTART_S, seconds)
            while run.now_s < deadline:
                time.sleep(0.1)
            own.process.send_signal(next(how))
            other.close()

        async def restarts() -> None:
            await asyncio.to_thread(restart)

        run = Soak(compositing, inference, seconds)
        asyncio.run(run.run(restarts))
        for service in (compositing, inference):
            assert_no_trace(service)
            assert service.process.poll() is None
        return verdicts(run.series, seconds), run.failures, run.done


def main() -> int:
    """Runs, and prints the verdicts. Returns 1 when something grew or a good call failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--leak", action="append", choices=LEAKS, default=[], help="plant a leak into the compositing service")
    options = parser.parse_args()
    found, failures, done = soak(options.seconds, options.leak)
    print(", ".join(f"{name.strip('_')} {count}" for name, count in sorted(done.items())))
    print("\n".join([*(verdict.line() for verdict in found), *failures[:20]]))
    return 0 if all(verdict.is_good for verdict in found) and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
