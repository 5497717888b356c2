"""The full-size network on one GPU: the inference service over gRPC, against ONNX Runtime running the exported file as it is.

The service is a process on loopback; callers ask for 24 frames of sound at a time, as a compositor does. The plain way has its
inputs on the GPU already, runs batches of eight and copies nothing back. Without a GPU this benchmark has no figures.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from grpc import aio

from avatar_tools.benchmark_avatar import BenchmarkNetwork, build_benchmark
from benchmarks.figures import Figure, cpu_seconds, figure
from benchmarks.gpu.plain import Plain
from benchmarks.gpu.steps import step_from
from benchmarks.services import speech_like
from inference_service.engines.devices import DeviceError, find_devices
from inference_service.settings import GpuSection, OnnxSection
from lipsync_cli.processes import LOOPBACK, ServiceProcess, serve_command
from shared_proto import inference_pb2
from shared_proto.inference_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:  # the class exists for type checkers only
    from shared_proto.inference_pb2_grpc import InferenceServiceAsyncStub

FRAMES = 32
BATCH = 24
LEAD_IN, LOOK_AHEAD = 10, 12
PLAIN_BATCH = 8
GOAL_SHARE, GOAL_RATE = 0.9, 5000.0


@dataclass(frozen=True)
class Round:
    """A few seconds of calls."""

    frames_s: float
    call_ms: float  # median of BATCH frames
    processor_ms: float  # of the service's process, a frame


@dataclass(frozen=True)
class Extent:
    """Parts to measure, and their durations."""

    on_gpu: bool = True
    network: BenchmarkNetwork = "full"
    avatars: int = 3
    callers: tuple[int, ...] = (1, 4, 16)
    seconds: float = 3.0  # of a round
    rounds: int = 3


ON_CPU = Extent(on_gpu=False, network="free", avatars=2, callers=(1,), seconds=0.1, rounds=1)


def run() -> list[Figure]:
    """Measures the GPU. About a minute and a half."""
    try:
        find_devices(GpuSection(enabled=True), OnnxSection())
    except DeviceError:
        return []
    figures: list[Figure] = []
    measure(Extent(), figures.append)
    return figures


def measure(extent: Extent, show: Callable[[Figure], None]) -> None:
    """Measures, and calls `show` with each figure as soon as it is there."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        avatars = [
            build_benchmark(root, f"benchmark{number}", frame_count=FRAMES, network=extent.network)
            for number in range(extent.avatars)
        ]
        plain = Plain(avatars[0].network_path, PLAIN_BATCH, extent.seconds / 2, on_gpu=extent.on_gpu)
        enabled = f"gpus.enabled={str(extent.on_gpu).lower()}"
        command = serve_command("inference", [f"models_root={root}", enabled, *LOOPBACK])
        with ServiceProcess("inference", command, log=root / "inference.log") as service:
            address = service.wait_ready()
            asyncio.run(measured(address, service, [avatar.id for avatar in avatars], plain, extent, show))


async def measured(
    address: str, process: ServiceProcess, ids: Sequence[str], plain: Plain, extent: Extent, show: Callable[[Figure], None]
) -> None:
    """Measures the service at `address`."""
    options = [("grpc.max_receive_message_length", -1)]
    async with aio.insecure_channel(address, options=options) as channel:
        stub = InferenceServiceStub(channel)
        for avatar_id in ids:
            started = perf_counter()
            reply = await stub.LoadModel(inference_pb2.LoadModelRequest(model_id=avatar_id))
            loaded = perf_counter() - started
        show(figure("LoadModel of another avatar", loaded, "s"))
        show(figure("memory of another avatar, crops made so far", reply.stats.memory_bytes / 1e6, "MB"))
        show(await first_call(stub, ids[0]))
        show(await differing_frames(stub, ids[0]))
        rates: list[float] = []
        for avatars, callers in [*((ids[:1], callers) for callers in extent.callers), (ids, 4 * len(ids))]:
            rounds = [
                (plain.frames_s(), await one_round(stub, process, avatars, callers, extent.seconds)) for _ in range(extent.rounds)
            ]
            rates.append(median(ours.frames_s for _, ours in rounds))
            name = f"{len(avatars)} avatar{'s' * (len(avatars) > 1)}, {callers} caller{'s' * (callers > 1)}"
            show(
                figure(
                    f"{name}: frames over gRPC",
                    rates[-1],
                    "frames/s",
                    ratio=median(ours.frames_s / theirs for theirs, ours in rounds),
                    compared_with=f"plain ONNX Runtime, batch {PLAIN_BATCH}",
                    ratio_at_least=GOAL_SHARE,
                )
            )
            show(figure(f"{name}: a call", median(ours.call_ms for _, ours in rounds), "ms"))
            show(figure(f"{name}: processor time of a frame", median(ours.processor_ms for _, ours in rounds), "ms"))
        show(figure("the most frames over gRPC of these", max(rates), "frames/s", at_least=GOAL_RATE))


async def first_call(stub: InferenceServiceAsyncStub, avatar_id: str) -> Figure:
    """Times the first request after loading, which must not wait for kernels to be chosen."""
    started = perf_counter()
    await mouths(stub, avatar_id, BATCH, lead_in=LEAD_IN)
    return figure("the first call after loading", (perf_counter() - started) * 1000, "ms")


async def differing_frames(stub: InferenceServiceAsyncStub, avatar_id: str) -> Figure:
    """Counts the frames of one batch whose bytes differ when they are asked for one by one, all at the same time."""
    together = await mouths(stub, avatar_id, BATCH, lead_in=LEAD_IN)
    alone = await asyncio.gather(
        *(mouths(stub, avatar_id, 1, lead_in=LEAD_IN + frame, first_frame=frame) for frame in range(BATCH))
    )
    differing = sum(together[frame] != alone[frame][0] for frame in range(BATCH))
    return figure("frames that differ when asked for alone", differing, f"of {BATCH}")


async def mouths(
    stub: InferenceServiceAsyncStub, avatar_id: str, count: int, *, lead_in: int, first_frame: int = 0
) -> list[bytes]:
    """Asks for the mouths of `count` frames, uint8."""
    request = inference_pb2.InferBatchRequest(
        model_id=avatar_id,
        raw_audio=speech_like(LEAD_IN + BATCH + LOOK_AHEAD).tobytes(),
        batch_size=count,
        lead_in_frames=lead_in,
        frame_indices=[(first_frame + place) % FRAMES for place in range(count)],
        mouth_format=inference_pb2.UINT8_BGR,
    )
    found: list[bytes] = []
    async for region in stub.InferStream(request):
        data = region.data
        size = len(data) // region.frame_count
        found += [data[start : start + size] for start in range(0, len(data), size)]
    return found


async def one_round(
    stub: InferenceServiceAsyncStub, process: ServiceProcess, ids: Sequence[str], callers: int, seconds: float
) -> Round:
    """Calls for some seconds by `callers` callers, each with one avatar."""
    made, times = 0, []
    spent, started = cpu_seconds(process), perf_counter()

    async def call(number: int) -> None:
        nonlocal made
        while perf_counter() - started < seconds:
            began = perf_counter()
            await mouths(stub, ids[number % len(ids)], BATCH, lead_in=LEAD_IN)
            times.append(perf_counter() - began)
            made += BATCH

    await asyncio.gather(*map(call, range(callers)))
    passed = perf_counter() - started
    return Round(made / passed, median(times) * 1000, (cpu_seconds(process) - spent) / made * 1000)


if __name__ == "__main__":
    chosen = step_from()
    measure(Extent() if chosen.on_gpu else ON_CPU, chosen.write)
