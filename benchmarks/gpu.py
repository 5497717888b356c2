"""The full-size network on one GPU: the inference service over gRPC, against ONNX Runtime running the exported file as it is.

The service is a process on loopback; callers ask for 24 frames of sound at a time, as a compositor does. The plain way has its
inputs on the GPU already, runs batches of eight and brings nothing back. Without a GPU this benchmark has no figures.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import psutil
from grpc import aio

from avatar_kit.avatar import Avatar
from avatar_kit.onnx_io import network_io
from avatar_tools.benchmark_avatar import build_benchmark
from benchmarks.running import LOOPBACK, cpu_seconds
from benchmarks.services import speech_like
from inference_service.engines.devices import CUDA, DeviceError, find_devices
from inference_service.settings import GpuSection, OnnxSection
from lipsync_cli.benching import Figure
from lipsync_cli.processes import ServiceProcess, serve_command
from shared_proto import inference_pb2
from shared_proto.inference_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:  # the class exists for type checkers only
    from shared_proto.inference_pb2_grpc import InferenceServiceAsyncStub

AVATARS = 3
FRAMES = 32
BATCH = 24
LEAD_IN, LOOK_AHEAD = 10, 12
PLAIN_BATCH = 8
SECONDS = 3.0
ROUNDS = 3
GOAL_SHARE = 0.9
CALLERS = (1, 4, 16)


@dataclass(frozen=True)
class Round:
    """A few seconds of calls."""

    frames_s: float
    call_ms: float  # median of BATCH frames
    processor_ms: float  # of the service's process, a frame


def run() -> list[Figure]:
    """About a minute and a half."""
    try:
        find_devices(GpuSection(enabled=True), OnnxSection())
    except DeviceError:
        return []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        avatars = [build_benchmark(root, f"full{number}", frame_count=FRAMES) for number in range(AVATARS)]
        plain = Plain(avatars[0])
        command = serve_command("inference", [f"models_root={root}", "gpus.enabled=true", *LOOPBACK])
        with ServiceProcess("inference", command, log=root / "inference.log") as service:
            address = service.wait_ready()
            return asyncio.run(measured(address, psutil.Process(service.pid), [avatar.id for avatar in avatars], plain))


class Plain:
    """A CUDA session of the exported file with its inputs and output on the GPU."""

    def __init__(self, avatar: Avatar) -> None:
        io = network_io(avatar.network_path)
        options = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
        self._session = onnxruntime.InferenceSession(str(avatar.network_path), providers=[(CUDA, options)])
        self._binding = self._session.io_binding()
        for name, shape in ((io.visual, (PLAIN_BATCH, 6, 320, 320)), (io.audio, (PLAIN_BATCH, 32, 16, 16))):
            values = np.random.default_rng(1).uniform(0, 1, shape).astype(np.float32)
            self._binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", 0))
        self._binding.bind_output(io.output, "cuda", 0)

    def frames_s(self) -> float:
        """Frames a second, after runs that choose the kernels."""
        for _ in range(3):
            self._session.run_with_iobinding(self._binding)
        runs, started = 0, perf_counter()
        while perf_counter() - started < SECONDS / 2:
            self._session.run_with_iobinding(self._binding)
            runs += 1
        return runs * PLAIN_BATCH / (perf_counter() - started)


async def measured(address: str, process: psutil.Process, ids: Sequence[str], plain: Plain) -> list[Figure]:
    """The figures, with the service listening at `address`."""
    options = [("grpc.max_receive_message_length", -1)]
    async with aio.insecure_channel(address, options=options) as channel:
        stub = InferenceServiceStub(channel)
        figures: list[Figure] = []
        for avatar_id in ids:
            started = perf_counter()
            reply = await stub.LoadModel(inference_pb2.LoadModelRequest(model_id=avatar_id))
            loaded = perf_counter() - started
        figures.append({"name": "LoadModel of another avatar", "value": loaded, "unit": "s"})
        figures.append({"name": "GPU memory of an avatar", "value": reply.stats.memory_bytes / 1e6, "unit": "MB"})
        figures.append(await first_call(stub, ids[0]))
        figures.append(await differing_frames(stub, ids[0]))
        ways = [(ids[:1], callers) for callers in CALLERS] + [(ids, 4 * len(ids))]
        for avatars, callers in ways:
            rounds = [(plain.frames_s(), await one_round(stub, process, avatars, callers)) for _ in range(ROUNDS)]
            name = f"{len(avatars)} avatar{'s' * (len(avatars) > 1)}, {callers} caller{'s' * (callers > 1)}"
            share = median(ours.frames_s / theirs for theirs, ours in rounds)
            figures.append(
                {
                    "name": f"{name}: frames over gRPC",
                    "value": median(ours.frames_s for _, ours in rounds),
                    "unit": "frames/s",
                    "ratio": share,
                    "compared_with": f"plain ONNX Runtime, batch {PLAIN_BATCH}",
                    "goal": f">= {GOAL_SHARE:g}x",
                    "reached": share >= GOAL_SHARE,
                }
            )
            figures.append({"name": f"{name}: a call", "value": median(ours.call_ms for _, ours in rounds), "unit": "ms"})
            spent = median(ours.processor_ms for _, ours in rounds)
            figures.append({"name": f"{name}: processor time of a frame", "value": spent, "unit": "ms"})
        return figures


async def first_call(stub: InferenceServiceAsyncStub, avatar_id: str) -> Figure:
    """The first request after loading, which must not wait for kernels to be chosen."""
    started = perf_counter()
    await mouths(stub, avatar_id, BATCH, lead_in=LEAD_IN)
    return {"name": "the first call after loading", "value": (perf_counter() - started) * 1000, "unit": "ms"}


async def differing_frames(stub: InferenceServiceAsyncStub, avatar_id: str) -> Figure:
    """Frames of one batch whose bytes are others when they are asked for one by one, with neighbours."""
    together = await mouths(stub, avatar_id, BATCH, lead_in=LEAD_IN)
    alone = await asyncio.gather(
        *(mouths(stub, avatar_id, 1, lead_in=LEAD_IN + frame, first_frame=frame) for frame in range(BATCH))
    )
    differing = sum(together[frame] != alone[frame][0] for frame in range(BATCH))
    return {"name": "frames that differ when asked for alone", "value": differing, "unit": f"of {BATCH}"}


async def mouths(
    stub: InferenceServiceAsyncStub, avatar_id: str, count: int, *, lead_in: int, first_frame: int = 0
) -> list[bytes]:
    """The mouths of `count` frames, uint8."""
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


async def one_round(stub: InferenceServiceAsyncStub, process: psutil.Process, ids: Sequence[str], callers: int) -> Round:
    """SECONDS of calls by so many callers, each staying with one avatar."""
    made, times = 0, []
    spent, started = cpu_seconds(process), perf_counter()

    async def call(number: int) -> None:
        nonlocal made
        while perf_counter() - started < SECONDS:
            began = perf_counter()
            await mouths(stub, ids[number % len(ids)], BATCH, lead_in=LEAD_IN)
            times.append(perf_counter() - began)
            made += BATCH

    await asyncio.gather(*map(call, range(callers)))
    seconds = perf_counter() - started
    return Round(made / seconds, median(times) * 1000, (cpu_seconds(process) - spent) / made * 1000)
