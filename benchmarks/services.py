"""Two services against one process that does the same, and the frames a second that both services make for many callers.

The first compares the time of 24 frames with sound: through client, compositing and inference service on loopback, and by calling
the same code in this process, with as many threads. The second has a network that costs next to nothing, eight callers and
batches of 24; the callers' process shares the machine's cores with both services.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_tools.benchmark_avatar import build_benchmark
from avatar_tools.demo import build_demo
from benchmarks.figures import Figure, cpu_seconds, figure
from lipsync_cli.processes import Services, both_services
from lipsync_client import Client
from monolithic_service.speaker import Speaker

BATCH = 24
LEAD_IN, LOOK_AHEAD = 10, 12
FRAMES = 120
QUALITY = 75
PAIRS = 31
CALLERS = 8
ROUND_S = 4.0
ROUNDS = 4
# As this process computes, so that both ways give the same bytes.
IN_FLOAT32 = ("precision=float32",)
EXTRA_GOAL_MS, RATE_GOAL = 8.0, 1500.0


def run() -> list[Figure]:
    """Measures both. About a minute."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            free = build_benchmark(root, "free", frame_count=FRAMES, network="free")
            demo = build_demo(root)
            with both_services(root, inference=IN_FLOAT32) as services:
                return [
                    *two_against_one(services, demo, root, "demo network"),
                    *two_against_one(services, free, root, "network that costs nothing"),
                    *throughput(services, free),
                ]
    finally:
        cv2.setNumThreads(threads)


def two_against_one(services: Services, avatar: Avatar, root: Path, what: str) -> list[Figure]:
    """Measures 24 frames, the two ways in turn, and the median of each pair's difference."""
    sound = speech_like(LEAD_IN + BATCH + LOOK_AHEAD)
    speaker = Speaker(avatar, AvatarCatalog(root))
    with Client(services.address) as client:

        def through_services() -> list[bytes]:
            return list(client.composite(avatar.id, sound, batch_size=BATCH, lead_in_frames=LEAD_IN, quality=QUALITY).frames)

        def in_this_process() -> list[bytes]:
            return list(speaker.jpegs(sound, range(BATCH), first=LEAD_IN, quality=QUALITY))

        if through_services() != in_this_process():
            raise RuntimeError("the two ways do not give the same bytes")
        pairs = [(timed(through_services), timed(in_this_process)) for _ in range(PAIRS)]
    title = f"{BATCH} frames, {what}"
    extra = median(two - one for two, one in pairs)
    return [
        figure(f"{title}: two services", median(two for two, _ in pairs), "ms"),
        figure(f"{title}: one process", median(one for _, one in pairs), "ms"),
        figure(f"{title}: extra time of two services", extra, "ms", at_most=EXTRA_GOAL_MS),
    ]


def timed(way: Callable[[], object]) -> float:
    """Returns the milliseconds of one call."""
    started = perf_counter()
    way()
    return (perf_counter() - started) * 1000


def throughput(services: Services, avatar: Avatar) -> list[Figure]:
    """Measures frames a second for all callers together, and the processor time of each process."""
    sound = speech_like(LEAD_IN + BATCH + LOOK_AHEAD)
    with Client(services.address) as client:
        client.load(avatar.id)
        for start in range(0, avatar.frame_count, BATCH):
            client.composite(avatar.id, sound, batch_size=BATCH, start_frame=start, lead_in_frames=LEAD_IN)
    rounds = [one_round(services, avatar, sound) for _ in range(ROUNDS)]
    rate = median(frames / seconds for frames, seconds, _ in rounds)
    best = max(frames / seconds for frames, seconds, _ in rounds)
    figures = [figure(f"both services, {CALLERS} callers (quickest round {best:.0f})", rate, "frames/s", at_least=RATE_GOAL)]
    for place, name in enumerate(("inference service", "compositing service", "callers")):
        spent = median(cpu[place] / frames * 1000 for frames, _, cpu in rounds)
        figures.append(figure(f"processor time of a frame: {name}", spent, "ms"))
    return figures


def one_round(services: Services, avatar: Avatar, sound: NDArray[np.float32]) -> tuple[int, float, tuple[float, float, float]]:
    """Returns frames made, seconds taken, and processor seconds of the inference service, the compositing service and callers."""
    made = [0] * CALLERS

    def spent() -> tuple[float, float, float]:
        return cpu_seconds(services.inference), cpu_seconds(services.compositing), process_time()

    def call(number: int, until: float) -> None:
        with Client(services.address) as client:
            position = number * BATCH
            while perf_counter() < until:
                client.composite(avatar.id, sound, batch_size=BATCH, start_frame=position, lead_in_frames=LEAD_IN)
                made[number] += BATCH
                position += BATCH

    before, started = spent(), perf_counter()
    callers = [threading.Thread(target=call, args=(number, started + ROUND_S)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    seconds = perf_counter() - started
    inference, compositing, client_s = (after - earlier for after, earlier in zip(spent(), before, strict=True))
    return sum(made), seconds, (inference, compositing, client_s)


def speech_like(frames: int) -> NDArray[np.float32]:
    """Makes `frames` frames of noise at a speaker's level, so that no row is silence."""
    return np.random.default_rng(4).normal(0, 0.1, frames * 640).astype(np.float32)
