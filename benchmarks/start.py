"""The time from starting both processes at once until the caller has the first frame. Avatars are on disk, none is preloaded.

Services keep what a load compiles (`cache.folder`). The goals are for a start with that; the first start ever is given apart.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from avatar_kit.avatar import Avatar
from avatar_tools.benchmark_avatar import build_benchmark
from avatar_tools.demo import build_demo
from benchmarks.figures import Figure, figure
from benchmarks.filming import film
from lipsync_cli.processes import both_services
from lipsync_client import Client

FULL_FRAMES = 523
ROUNDS = 3
GOAL_S = {"demo avatar": 1.0}
FULL_GOAL_S = 1.5


def run() -> list[Figure]:
    """Measures the demo, and an avatar of real size with the full-size network, as pictures and as a video. About a minute."""
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
            fresh = [sum(first_frame(root, avatar, root / f"cache-{number}")) for number in range(ROUNDS)]
            rounds = [first_frame(root, avatar, root / "cache-0") for _ in range(ROUNDS)]
            total = median(ready + frame for ready, frame in rounds)
            ready, frame = (median(part) for part in zip(*rounds, strict=True))
            prepared = median(loading(root, avatar, root / "cache-0") for _ in range(ROUNDS))
            made += [
                figure(f"{name}: processes started to first frame", total, "s", at_most=GOAL_S.get(name, FULL_GOAL_S)),
                figure(f"{name}: the first time ever", median(fresh), "s"),
                figure(f"{name}: of that, both services ready", ready, "s"),
                figure(f"{name}: of that, load and first frame", frame, "s"),
                figure(f"{name}: LoadModel, every frame prepared", prepared, "s"),
            ]
    return made


def first_frame(root: Path, avatar: Avatar, cache: Path) -> tuple[float, float]:
    """Returns the seconds until both are ready, and from there to the first frame. `cache`: what loads keep is there."""
    started = perf_counter()
    with both_services(root, inference=[f"cache.folder={cache}"]) as services, Client(services.address) as client:
        ready = perf_counter()
        batch = client.composite(avatar.id, np.zeros(12 * 640, np.float32), batch_size=1)
        if not batch.frames[0].startswith(b"\xff\xd8"):
            raise RuntimeError("the first frame is not a JPEG file")
        return ready - started, perf_counter() - ready


def loading(root: Path, avatar: Avatar, cache: Path) -> float:
    """Returns the seconds that loading it takes in services that have loaded nothing yet."""
    with both_services(root, inference=[f"cache.folder={cache}"]) as services, Client(services.address) as client:
        started = perf_counter()
        client.load(avatar.id)
        return perf_counter() - started
