"""The service's engine on one GPU, without the service around it: batches, precision, layout, and many avatars.

Each line of the result is one way: frames a second when batches follow each other, of one avatar or of several in turn; what a
load takes, and the memory then in use on the GPU. In float16 also how far its mouths are from those in float32.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from benchmarks.gpu.steps import Step, step_from
from benchmarks.network import windows_of
from benchmarks.varied_avatars import full_network, small_network, varied_avatars
from inference_service.engines.devices import Device, find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.engines.gpu_memory import visible_gpus
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import GpuSection, OnnxSection

PICTURES = 4


@dataclass(frozen=True)
class Way:
    """One way to run networks."""

    batch: int
    float16: bool = False
    nhwc: bool = False
    shared: bool = True
    cuda_graphs: bool = False
    avatars: int = 1


# The most telling first: the time may be over before the last.
WAYS = (
    Way(8, shared=False),
    Way(8),
    Way(8, float16=True),
    Way(8, float16=True, cuda_graphs=True),
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


def main() -> None:
    """Measures all ways; one that fails is a line too."""
    step = step_from()
    network, seconds = (full_network(), 2.0) if step.on_gpu else (small_network(), 0.05)
    for way in WAYS if step.on_gpu else WAYS_ON_CPU:
        try:
            result = measured(step, way, varied_avatars(network, way.avatars, frames=PICTURES), seconds)
        except Exception as error:  # whatever a driver raises: the other ways are measured all the same
            result = {"error": f"{type(error).__name__}: {error}"}
        step.write({"way": asdict(way), **result})


def measured(step: Step, way: Way, avatars: Iterator[Avatar], seconds: float) -> dict[str, Any]:
    """Loads the avatars, and runs batches of each in turn."""
    options = OnnxSection(prefer_nhwc=way.nhwc, share_sessions=way.shared, cuda_graphs=way.cuda_graphs)
    device = find_devices(GpuSection(enabled=step.on_gpu), options)[0]
    shared, before = SharedSessions(options), used_mb(device)
    engines, loads, memory = [], [], []
    exact: list[OnnxEngine] = []
    for avatar in avatars:
        started = time.perf_counter()
        engine = OnnxEngine(avatar, device, options, max_batch=way.batch, shared=shared, float16=way.float16)
        engine.warm_up()
        engine.bank.fill()
        loads.append(time.perf_counter() - started)
        memory.append(used_mb(device))
        engines.append(engine)
        if way.float16 and not exact:
            exact.append(OnnxEngine(avatar, device, options, max_batch=way.batch))
            exact[0].bank.fill()
    result = {
        "load_first_ms": loads[0] * 1000,
        "load_another_ms": float(np.median(loads[1:])) * 1000 if loads[1:] else None,
        "memory_first_mb": memory[0] - before,
        "memory_another_mb": (memory[-1] - memory[1]) / (len(memory) - 2) if len(memory) > 2 else None,
        "frames_s": frames_s(engines, way.batch, seconds),
    }
    if exact:
        result["psnr_db"] = psnr_db(mouths(engines[0]), mouths(exact[0]))
    return result


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
