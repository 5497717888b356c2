"""The resident memory that an avatar of 523 pictures at 1280x720 takes in each service, in fresh processes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

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
GOAL_MB = 80.0


class Resident(NamedTuple):
    """Megabytes of the two services."""

    inference: float
    compositing: float


class Weighed(NamedTuple):
    """The services' memory, step by step."""

    started: Resident
    used: Resident
    """A small avatar was loaded and shown."""
    loaded: Resident
    rested: Resident
    """Every frame was asked for at rest."""
    spoken: Resident
    """And with sound."""


def run() -> list[Figure]:
    """Loads one avatar and shows every frame of it: once as pictures, once as a video. About a minute.

    A small avatar comes first: what the process needs once, for the first of all avatars and for messages, is told apart.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = build_benchmark(root, "first", frame_count=BATCH, network="free")
        avatar = build_benchmark(root, "weighed", frame_count=FRAMES, network="free")
        weighed = weigh(root, first, avatar)
        filmed = weigh(root, film(first, "first-filmed"), film(avatar, "filmed"))
    backgrounds = f"compositing service, backgrounds of {FRAMES} frames"
    at_rest = f"{backgrounds}, mouths at rest included"
    return [
        figure(backgrounds, grown(weighed.used, weighed.loaded), "MB"),
        figure(at_rest, grown(weighed.used, weighed.rested), "MB", at_most=GOAL_MB),
        figure(f"{at_rest}, in a video", grown(filmed.used, filmed.rested), "MB", at_most=GOAL_MB),
        figure("compositing service, after it spoke too", grown(weighed.used, weighed.spoken), "MB"),
        figure("compositing service without an avatar", weighed.started.compositing, "MB"),
        figure(
            f"compositing service, a first avatar of {BATCH} frames and its messages", grown(weighed.started, weighed.used), "MB"
        ),
        figure(
            f"inference service, crops of {FRAMES} frames and a small network",
            weighed.spoken.inference - weighed.used.inference,
            "MB",
        ),
        figure("inference service without an avatar", weighed.started.inference, "MB"),
    ]


def grown(before: Resident, after: Resident) -> float:
    """Returns the megabytes by which the compositing service grew."""
    return after.compositing - before.compositing


def weigh(root: Path, first: Avatar, avatar: Avatar) -> Weighed:
    """Shows two avatars, one after the other, and returns the memory meanwhile."""
    with both_services(root) as services, Client(services.address) as client:
        started = resident(services)
        client.load(first.id)
        show_at_rest(client, first)
        show_speaking(client, first)
        used = resident(services)
        client.load(avatar.id)
        loaded = resident(services)
        show_at_rest(client, avatar)
        rested = resident(services)
        show_speaking(client, avatar)
        return Weighed(started, used, loaded, rested, resident(services))


def resident(services: Services) -> Resident:
    """Returns what the services take now."""
    return Resident(*(psutil.Process(each.pid).memory_info().rss / 1e6 for each in (services.inference, services.compositing)))


def show_at_rest(client: Client, avatar: Avatar) -> None:
    """Asks for each frame once, as one caller would whose avatar is silent."""
    for start in range(0, avatar.frame_count, BATCH):
        client.idle(avatar.id, min(BATCH, avatar.frame_count - start), start_frame=start)


def show_speaking(client: Client, avatar: Avatar) -> None:
    """Asks for each frame once, as one caller that speaks without a pause would."""
    sound = np.zeros(BATCH * 640, np.float32)
    for start in range(0, avatar.frame_count, BATCH):
        client.composite(avatar.id, sound, batch_size=min(BATCH, avatar.frame_count - start), start_frame=start)
