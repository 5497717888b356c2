"""Messages and frames changed at random, to every method of every service: an innocent caller is served right, the status says
whose fault it is, and memory and descriptors come back. `make fuzz` does so for longer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from ..end_to_end.callers import SteadyCaller
from ..end_to_end.processes import Service, assert_no_trace, resident_mb, running_all, until
from ..end_to_end.test_fuzz import RPCS
from .conftest import request_of
from .fuzzing import Seed, cases, corpus, keep
from .http2 import PREFACE

Code = grpc.StatusCode
CALL_S = 5
AT_ONCE = 16
# What may be said of a request that nobody foresaw: never UNKNOWN, never INTERNAL.
HONEST = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.OUT_OF_RANGE,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.ABORTED,
    Code.RESOURCE_EXHAUSTED,
    Code.DEADLINE_EXCEEDED,
}
STREAMS = {
    "/compositing.CompositingService/StreamComposite",
    "/inference.InferenceService/InferSessions",
    "/optimized_lipsyncsrv.OptimizedLipSyncService/StreamInference",
}
# What the client makes of a call that ends while it still sends.
OF_THE_CLIENT = "Internal error from Core"


@pytest.fixture(scope="module")
def service(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """All services in one process, each port of which serves all of them."""
    settings = f"models_root={models_root}", f"audio_encoder_path={models_root / 'none.onnx'}", "sessions.idle_timeout_seconds=2"
    with running_all(*settings, log=tmp_path_factory.mktemp("fuzzed") / "log") as (compositing, _, _):
        yield compositing
        assert_no_trace(compositing)


@pytest.fixture
def steady(service: Service) -> Iterator[SteadyCaller]:
    with SteadyCaller(service.address, request_of()) as caller:
        caller.wait_for_a_call()
        yield caller
        caller.wait_for_a_call()


def descriptors(service: Service) -> int:
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))


def test_the_corpus_has_every_method(service: Service) -> None:
    assert {seed.name for seed in corpus("grpc")} >= {f"/{rpc[0]}/{rpc[1]}" for rpc in RPCS}


async def test_messages(service: Service, steady: SteadyCaller) -> None:
    async with grpc.aio.insecure_channel(service.address, (("grpc.max_receive_message_length", -1),)) as channel:
        calls = {name: channel.stream_stream(name) for name in {seed.name for seed in corpus("grpc")}}

        async def send(case: Seed) -> None:
            is_stream = case.name in STREAMS
            call: Any = calls[case.name](iter(case.parts if is_stream else [b"".join(case.parts)]), timeout=CALL_S)
            with suppress(grpc.RpcError):
                async for _ in call:
                    pass
            code, words = await call.code(), await call.details()
            assert code in HONEST or words == OF_THE_CLIENT, f"{code} {words}: {keep('grpc', case)}"
            assert "Traceback" not in (words or "")

        await settle(service, cases("grpc"), send)
    await asyncio.to_thread(steady.wait_for_a_call)


async def test_frames(service: Service, steady: SteadyCaller) -> None:
    host, port = service.address.rsplit(":", 1)

    async def send(case: Seed) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            with suppress(ConnectionError, TimeoutError):
                writer.write(PREFACE + b"".join(case.parts))
                await writer.drain()
                async with asyncio.timeout(0.3):
                    await reader.read(-1)
        finally:
            writer.transport.abort()

    await settle(service, cases("http2"), send)
    await asyncio.to_thread(steady.wait_for_a_call)


async def settle(service: Service, all_cases: Iterator[Seed], send: Any) -> None:
    """Sends all, some at a time, and sees that nothing of them is left."""
    memory, before = resident_mb(service), descriptors(service)
    waiting = set[asyncio.Task[None]]()
    for case in all_cases:
        waiting.add(asyncio.create_task(send(case)))
        if len(waiting) >= AT_ONCE:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
    for each in await asyncio.gather(*waiting, return_exceptions=True):
        if isinstance(each, BaseException):
            raise each
    # Avatars that were loaded meanwhile have some; a leak would be of hundreds of cases.
    await asyncio.to_thread(until, lambda: descriptors(service) <= before + 20)
    # However long it took: what malloc keeps of a peak, and avatars. What leaks a little a case is seen by `make fuzz`.
    assert resident_mb(service) - memory < 250
    assert service.process.poll() is None
