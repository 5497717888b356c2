"""The service's engine on one GPU, without the service around it: batches, precision, layout, and many avatars.

Each line of the result is one way: frames a second when batches follow each other, of one avatar or of several in turn, and the
share of it in the frames a second of ONNX Runtime alone, which copies nothing; what a load takes, and the memory then in use on
the GPU. In float16 also how far its mouths are from those in float32; with sizes of runs, those that give equal bytes, and the
time of a lone frame. The first lines are the work of the host beside ONNX Runtime, with a network that costs nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_tools.benchmark_avatar import build_benchmark
from benchmarks.gpu.plain import Plain
from benchmarks.gpu.steps import Step, step_from
from benchmarks.network import windows_of
from benchmarks.varied_avatars import full_network, small_network, varied_avatars
from inference_service.engines.crop_arena import CROP_BYTES, CropArena
from inference_service.engines.devices import CPU, Device, find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.engines.gpu_memory import visible_gpus
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import GpuSection, OnnxSection

PICTURES = 4


class AsGpu(Device):
    """The CPU, handled as a GPU: for networks that have nothing that a GPU would have to run itself."""

    @property
    def is_gpu(self) -> bool:
        """Always True."""
        return True

    @property
    def memory(self) -> tuple[str, int]:
        """The CPU's."""
        return "cpu", 0


AS_GPU = AsGpu(0, "the CPU, handled as a GPU", ((CPU, {}),))
HOST_ARENA_BYTES = 32 * CROP_BYTES


@dataclass(frozen=True)
class Way:
    """One way to run networks."""

    batch: int
    float16: bool = False
    nhwc: bool = False
    shared: bool = True
    cuda_graphs: bool = False
    buckets: tuple[int, ...] = ()
    avatars: int = 1
    crops_mb: int = 256  # of the arena; 0: crops cross with each run


# The most telling first: the time may be over before the last.
WAYS = (
    Way(8, shared=False),
    Way(8),
    Way(8, float16=True),
    Way(8, float16=True, cuda_graphs=True),
    Way(8, float16=True, buckets=(1, 2, 4)),
    Way(8, float16=True, cuda_graphs=True, buckets=(1, 2, 4)),
    Way(8, float16=True, crops_mb=0),
    Way(8, float16=True, avatars=40),
    Way(8, float16=True, cuda_graphs=True, avatars=8),
    Way(8, float16=True, nhwc=True, shared=False),
    *(Way(batch, float16=True, cuda_graphs=captured) for batch in (1, 4, 16, 2) for captured in (True, False)),
    Way(8, cuda_graphs=True),
    Way(8, avatars=8),
    Way(8, avatars=40),
    Way(8, float16=True, avatars=8),
    Way(8, float16=True, shared=False),
    Way(8, float16=True, nhwc=True),
    *(Way(batch) for batch in (1, 2, 4, 16)),
    Way(8, nhwc=True, shared=False),
)
WAYS_ON_CPU = (Way(1, shared=False), Way(1), Way(2, avatars=3), Way(1, float16=True))
HOST_GOAL_MS = 0.15  # a frame: at 5,000 frames a second one interpreter has 0.2


def main() -> None:
    """Measures all ways; one that fails is a line too."""
    step = step_from()
    for batch in (1, 8):
        step.write(host_work(step, batch, 1.0 if step.on_gpu else 0.2))
    network, seconds = (full_network(), 2.0) if step.on_gpu else (small_network(), 0.05)
    for way in WAYS if step.on_gpu else WAYS_ON_CPU:
        try:
            result = measured(step, way, varied_avatars(network, way.avatars, frames=PICTURES), seconds)
        except Exception as error:  # whatever a driver raises: the other ways are measured all the same
            result = {"error": f"{type(error).__name__}: {error}"}
        step.write({"way": asdict(way), **result})


def measured(step: Step, way: Way, avatars: Iterator[Avatar], seconds: float) -> dict[str, Any]:
    """Loads the avatars, and runs batches of each in turn."""
    options = OnnxSection(prefer_nhwc=way.nhwc, share_sessions=way.shared, cuda_graphs=way.cuda_graphs, batch_buckets=way.buckets)
    device = find_devices(GpuSection(enabled=step.on_gpu), options)[0]
    arena = CropArena(device, way.crops_mb * 10**6) if way.crops_mb and device.holds_tensors else None
    shared, before = SharedSessions(options), used_mb(device)
    engines, loads, memory = [], [], []
    exact: list[OnnxEngine] = []
    bare_frames_s = 0.0
    for avatar in avatars:
        bare_frames_s = bare_frames_s or bare(step, way, avatar, seconds / 2)
        started = time.perf_counter()
        engine = OnnxEngine(avatar, device, options, max_batch=way.batch, shared=shared, arena=arena, float16=way.float16)
        engine.warm_up()
        engine.bank.fill()
        loads.append(time.perf_counter() - started)
        memory.append(used_mb(device))
        engines.append(engine)
        if way.float16 and not exact:
            exact.append(OnnxEngine(avatar, device, options, max_batch=way.batch))
            exact[0].bank.fill()
    result: dict[str, Any] = {
        "load_first_ms": loads[0] * 1000,
        "load_another_ms": float(np.median(loads[1:])) * 1000 if loads[1:] else None,
        "memory_first_mb": memory[0] - before,
        "memory_another_mb": (memory[-1] - memory[1]) / (len(memory) - 2) if len(memory) > 2 else None,
        "frames_s": (made := frames_s(engines, way.batch, seconds)),
        "bare_frames_s": bare_frames_s,
        "share_of_bare": made / bare_frames_s,
    }
    if way.buckets:
        result |= {"run_sizes": engines[0].run_sizes, "lone_frame_ms": 1000 / frames_s(engines, 1, seconds)}
    if exact:
        result["psnr_db"] = psnr_db(mouths(engines[0]), mouths(exact[0]))
    return result


def bare(step: Step, way: Way, avatar: Avatar, seconds: float) -> float:
    """Returns frames a second of ONNX Runtime alone, in the same precision and batches."""
    return Plain(avatar.network_path, way.batch, seconds, on_gpu=step.on_gpu, float16=way.float16).frames_s()


def host_work(step: Step, batch: int, seconds: float) -> dict[str, Any]:
    """Measures the time of an engine's runs outside ONNX Runtime, for batches of a network that costs nothing.

    Without a GPU the CPU is handled as one, as the rest of the host's work differs on CPUs.
    """
    options = OnnxSection()
    device = find_devices(GpuSection(enabled=True), options)[0] if step.on_gpu else AS_GPU
    arena = CropArena(device, HOST_ARENA_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        avatar = build_benchmark(Path(folder), "free", frame_count=PICTURES, network="free")
        engine = OnnxEngine(avatar, device, options, max_batch=batch, arena=arena)
        engine.warm_up()
        engine.bank.fill()
    inside: list[float] = []
    with timed_runs(inside):
        made = frames_s([engine], batch, seconds)
    outside_ms = 1000 / made - 1000 * sum(inside) / (batch * len(inside))
    return {
        "host_work": {"batch": batch, "ms_a_frame": outside_ms, "goal_ms": HOST_GOAL_MS, "reached": outside_ms <= HOST_GOAL_MS}
    }


@contextmanager
def timed_runs(seconds: list[float]) -> Iterator[None]:
    """Appends the time of each of ONNX Runtime's runs while the block lasts."""
    plain = onnxruntime.InferenceSession.run_with_iobinding

    def timed(*arguments: Any) -> None:
        started = time.perf_counter()
        plain(*arguments)
        seconds.append(time.perf_counter() - started)

    onnxruntime.InferenceSession.run_with_iobinding = timed
    try:
        yield
    finally:
        onnxruntime.InferenceSession.run_with_iobinding = plain


def frames_s(engines: Sequence[OnnxEngine], batch: int, seconds: float) -> float:
    """Returns frames a second of batches that follow each other, each of the next avatar."""
    windows, frames = windows_of(batch), np.arange(batch, dtype=np.int64) % PICTURES
    runs, started = 0, time.perf_counter()
    while runs < len(engines) or time.perf_counter() - started < seconds:
        engine = engines[runs % len(engines)]
        engine.run(EngineInput(windows, frames, NO_PICTURES, want_float=False, want_uint8=True))
        runs += 1
    return runs * batch / (time.perf_counter() - started)


def mouths(engine: OnnxEngine) -> NDArray[np.float32]:
    """Returns the mouths of the avatar's pictures, [n, 3, 320, 320]."""
    frames = np.arange(PICTURES, dtype=np.int64)
    made = engine.run(EngineInput(windows_of(PICTURES), frames, NO_PICTURES, want_float=True, want_uint8=False)).mouths_float
    assert made is not None
    return made


def psnr_db(values: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Returns 10 log10(1 / mean square error) of values of 0..1."""
    return -10 * float(np.log10(max(1e-20, np.square(values.astype(np.float64) - reference).mean())))


def used_mb(device: Device) -> float:
    """Returns the GPU's memory in use by anyone; 0 on a CPU."""
    return next((gpu.used_bytes / 1e6 for gpu in visible_gpus() if gpu.index == device.gpu_id), 0.0)


if __name__ == "__main__":
    main()
