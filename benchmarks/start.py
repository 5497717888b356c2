"""From starting both processes to the first picture in a caller's hands, avatars on disk, nothing preloaded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from avatar_kit.avatar import Avatar
from avatar_tools.benchmark_avatar import build_benchmark
from avatar_tools.demo import build_demo
from benchmarks.filming import film
from benchmarks.running import both_services
from lipsync_cli.benching import Figure
from lipsync_client import Client

FULL_FRAMES = 523
ROUNDS = 3
GOAL_S = 3.0


def run() -> list[Figure]:
    """The demo, and an avatar of a real one's size with the full-size network, as pictures and as a video. About two minutes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        full = build_benchmark(root, frame_count=FULL_FRAMES, network="full")
        avatars = {
            "demo avatar": build_demo(root),
            f"full-size network, {FULL_FRAMES} frames": full,
            f"full-size network, {FULL_FRAMES} frames in a video": film(full, "filmed"),
        }
        made: list[Figure] = []
        for name, avatar in avatars.items():
            rounds = [first_frame(root, avatar) for _ in range(ROUNDS)]
            total = median(ready + frame for ready, frame in rounds)
            made += [
                {
                    "name": f"{name}: processes started to first frame",
                    "value": total,
                    "unit": "s",
                    "goal": f"<= {GOAL_S:g} s",
                    "reached": total <= GOAL_S,
                },
                {"name": f"{name}: of that, both services ready", "value": median(ready for ready, _ in rounds), "unit": "s"},
                {"name": f"{name}: of that, load and first frame", "value": median(frame for _, frame in rounds), "unit": "s"},
                {
                    "name": f"{name}: LoadModel, every frame prepared",
                    "value": median(loading(root, avatar) for _ in range(ROUNDS)),
                    "unit": "s",
                },
            ]
    return made


def first_frame(root: Path, avatar: Avatar) -> tuple[float, float]:
    """Seconds until both are ready, one started after the other, and from there to the first picture."""
    started = perf_counter()
    with both_services(root) as services, Client(services.address) as client:
        ready = perf_counter()
        batch = client.composite(avatar.id, np.zeros(12 * 640, np.float32), batch_size=1)
        if not batch.frames[0].startswith(b"\xff\xd8"):
            raise RuntimeError("the first frame is no JPEG")
        return ready - started, perf_counter() - ready


def loading(root: Path, avatar: Avatar) -> float:
    """Seconds that loading it takes in services that have loaded nothing yet."""
    with both_services(root) as services, Client(services.address) as client:
        started = perf_counter()
        client.load(avatar.id)
        return perf_counter() - started
