"""Many avatars on one CPU: in sessions that they share, their weights as data, against a session for each. Full-size networks.

A load is opening the network's file and a first frame. A change of avatars is what a frame takes longer when each frame is of
another avatar than the one before. Times are processor time, of all cores; memory is the growth of a fresh process. Few avatars
have a session each here: forty would take six gigabytes and more.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from statistics import median
from time import process_time
from typing import NamedTuple

import numpy as np
import psutil

from benchmarks.figures import Figure, figure
from benchmarks.varied_avatars import full_network, varied_avatars
from inference_service.engines.devices import find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import GpuSection, OnnxSection
from service_kit.malloc import tune_malloc

AVATARS, FEW_AVATARS = 40, 6
ROUNDS = 3


class Measured(NamedTuple):
    """Memory and times of many avatars in one process."""

    first_mb: float
    another_mb: float
    load_ms: float  # of another one, processor time, as below
    frame_ms: float  # of one avatar again and again
    change_ms: float  # added when each frame is of another avatar


def run() -> list[Figure]:
    """Measures both ways, each in a process of its own. About a minute and a half."""
    shared, own = (in_fresh_process(count, share=share) for count, share in ((AVATARS, True), (FEW_AVATARS, False)))
    together, alone = f"{AVATARS} avatars in shared sessions", "a session each"

    def compared(what: str, ours: float, theirs: float, unit: str) -> Figure:
        return figure(f"{together}: {what}", ours, unit, ratio=theirs / ours, compared_with=alone)

    return [
        figure(f"{together}: memory of the first", shared.first_mb, "MB"),
        compared("memory of another", shared.another_mb, own.another_mb, "MB"),
        compared("load of another", shared.load_ms, own.load_ms, "ms"),
        compared("a frame", shared.frame_ms, own.frame_ms, "ms"),
        figure(f"{together}: added by a change of avatars", shared.change_ms, "ms"),
        figure(f"{alone}: memory of another", own.another_mb, "MB"),
        figure(f"{alone}: load of another", own.load_ms, "ms"),
        figure(f"{alone}: a frame", own.frame_ms, "ms"),
        figure(f"{alone}: added by a change of avatars", own.change_ms, "ms"),
    ]


def in_fresh_process(count: int, *, share: bool) -> Measured:
    """Measures `count` avatars in a process that has loaded nothing before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (count, share))


def measure(count: int, share: bool) -> Measured:
    """Loads the avatars one after the other, and runs them in turn."""
    tune_malloc()
    options = OnnxSection(share_sessions=share)
    device = find_devices(GpuSection(enabled=False), options)[0]
    shared = SharedSessions(options)
    engines: list[OnnxEngine] = []
    resident, seconds = [resident_mb()], []
    for avatar in varied_avatars(full_network(), count):
        started = process_time()
        engines.append(OnnxEngine(avatar, device, options, shared=shared))
        engines[-1].warm_up()
        seconds.append(process_time() - started)
        resident.append(resident_mb())
    same, changing = [], []
    for turn in range(ROUNDS):
        changing.append(frame_s(engines[:FEW_AVATARS]))
        same.append(frame_s([engines[turn]] * FEW_AVATARS))
    others = (resident[-1] - resident[1]) / (count - 1)
    frame, added = median(same), median(each - one for each, one in zip(changing, same, strict=True))
    return Measured(resident[1] - resident[0], others, median(seconds[1:]) * 1000, frame * 1000, added * 1000)


def frame_s(engines: Sequence[OnnxEngine]) -> float:
    """Returns the processor seconds of a frame, for one frame of each."""
    windows, frames = np.zeros((1, 16, 512), np.float32), np.zeros(1, np.int64)
    started = process_time()
    for engine in engines:
        engine.run(EngineInput(windows, frames, NO_PICTURES, want_float=False, want_uint8=True))
    return (process_time() - started) / len(engines)


def resident_mb() -> float:
    """Returns the resident memory of this process in MB."""
    return float(psutil.Process().memory_info().rss) / 1e6
