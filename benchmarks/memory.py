"""What an avatar of 523 frames at 1280x720 weighs in each service, as resident memory of fresh processes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from avatar_kit.avatar import Avatar
from avatar_tools.benchmark_avatar import build_benchmark
from benchmarks.filming import film
from benchmarks.running import Services, both_services
from lipsync_cli.benching import Figure
from lipsync_client import Client

FRAMES = 523
BATCH = 50
GOAL_MB = 120.0


def run() -> list[Figure]:
    """Both services, loaded with one avatar that has shown every frame: as pictures, and as a video. About a minute."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        avatar = build_benchmark(root, "weighed", frame_count=FRAMES, network="free")
        before, loaded, shown = weigh(root, avatar)
        filmed_before, filmed_loaded, _ = weigh(root, film(avatar, "filmed"))
    backgrounds = loaded[1] - before[1]
    return [
        {
            "name": f"compositing service, backgrounds of {FRAMES} frames",
            "value": backgrounds,
            "unit": "MB",
            "goal": f"<= {GOAL_MB:g} MB",
            "reached": backgrounds <= GOAL_MB,
        },
        {
            "name": f"compositing service, backgrounds of {FRAMES} frames in a video",
            "value": filmed_loaded[1] - filmed_before[1],
            "unit": "MB",
        },
        {"name": "compositing service, after showing each, messages included", "value": shown[1] - before[1], "unit": "MB"},
        {"name": "compositing service without an avatar", "value": before[1], "unit": "MB"},
        {"name": f"inference service, crops of {FRAMES} frames and a small network", "value": shown[0] - before[0], "unit": "MB"},
        {"name": "inference service without an avatar", "value": before[0], "unit": "MB"},
    ]


def weigh(root: Path, avatar: Avatar) -> tuple[tuple[float, float], ...]:
    """`resident` before loading the avatar, after it, and after every frame was shown."""
    with both_services(root) as services, Client(services.address) as client:
        before = resident(services)
        client.load(avatar.id)
        loaded = resident(services)
        show_every_frame(client, avatar)
        return before, loaded, resident(services)


def resident(services: Services) -> tuple[float, float]:
    """Megabytes of the inference and of the compositing service."""
    return services.inference.memory_info().rss / 1e6, services.compositing.memory_info().rss / 1e6


def show_every_frame(client: Client, avatar: Avatar) -> None:
    """Each frame once, as one caller that speaks without a pause would."""
    sound = np.zeros(BATCH * 640, np.float32)
    for start in range(0, avatar.frame_count, BATCH):
        client.composite(avatar.id, sound, batch_size=min(BATCH, avatar.frame_count - start), start_frame=start)
