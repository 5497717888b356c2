"""The resident memory that an avatar of 523 pictures at 1280x720 takes in each service, in fresh processes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import psutil

from avatar_kit.avatar import Avatar
from avatar_tools.benchmark_avatar import build_benchmark
from benchmarks.figures import Figure, figure
from benchmarks.filming import film
from lipsync_cli.processes import Services, both_services
from lipsync_client import Client

FRAMES = 523
BATCH = 50
GOAL_MB = 120.0


def run() -> list[Figure]:
    """Loads one avatar and shows every frame of it: once as pictures, once as a video. About a minute."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        avatar = build_benchmark(root, "weighed", frame_count=FRAMES, network="free")
        before, loaded, shown = weigh(root, avatar)
        filmed_before, filmed_loaded, _ = weigh(root, film(avatar, "filmed"))
    backgrounds = f"compositing service, backgrounds of {FRAMES} frames"
    return [
        figure(backgrounds, loaded[1] - before[1], "MB", at_most=GOAL_MB),
        figure(f"{backgrounds} in a video", filmed_loaded[1] - filmed_before[1], "MB"),
        figure("compositing service, after showing each, messages included", shown[1] - before[1], "MB"),
        figure("compositing service without an avatar", before[1], "MB"),
        figure(f"inference service, crops of {FRAMES} frames and a small network", shown[0] - before[0], "MB"),
        figure("inference service without an avatar", before[0], "MB"),
    ]


def weigh(root: Path, avatar: Avatar) -> tuple[tuple[float, float], ...]:
    """Returns `resident` before loading the avatar, after it, and after every frame was shown."""
    with both_services(root) as services, Client(services.address) as client:
        before = resident(services)
        client.load(avatar.id)
        loaded = resident(services)
        show_every_frame(client, avatar)
        return before, loaded, resident(services)


def resident(services: Services) -> tuple[float, float]:
    """Returns the megabytes of the inference and of the compositing service."""
    first, second = (psutil.Process(each.pid).memory_info().rss / 1e6 for each in (services.inference, services.compositing))
    return first, second


def show_every_frame(client: Client, avatar: Avatar) -> None:
    """Asks for each frame once, as one caller that speaks without a pause would."""
    sound = np.zeros(BATCH * 640, np.float32)
    for start in range(0, avatar.frame_count, BATCH):
        client.composite(avatar.id, sound, batch_size=min(BATCH, avatar.frame_count - start), start_frame=start)
