"""`lipsync demo`: builds the demo avatar, starts both services and renders a film."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarNotFound
from avatar_tools.demo import SPEECH_PATH, build_demo
from lipsync_cli.processes import both_services
from lipsync_cli.rendering import Job, Rendered, render
from lipsync_cli.screen import progress_bar
from lipsync_cli.strip import Box

AVATAR_ID = "demo"
# The strip shows the face: this much around the rectangle, in widths and heights of it.
FACE_SIDES = 0.55
FACE_ABOVE = 1.1
FACE_BELOW = 0.2


@dataclass(frozen=True)
class Demonstration:
    """The times of the steps, in seconds. `build_s` is None when the avatar was there already."""

    build_s: float | None
    start_s: float
    rendered: Rendered

    def rows(self) -> list[tuple[str, str]]:
        """Returns the rows of the table of times."""
        build = "was there already" if self.build_s is None else f"{self.build_s:.1f} s"
        return [("build the avatar", build), ("start both services", f"{self.start_s:.1f} s"), *self.rendered.rows()]


def demonstrate(*, models_root: Path, out_dir: Path) -> Demonstration:
    """Builds the demo avatar if it is missing, starts both services and renders the shipped speech to demo.mp4 and demo.png.

    Raises CliError when a service does not start. Both services have ended when it returns.
    """
    avatar, build_s = _avatar(models_root)
    started = time.perf_counter()
    with both_services(models_root) as services, progress_bar() as report:
        start_s = time.perf_counter() - started
        job = Job(
            avatar=AVATAR_ID,
            audio=SPEECH_PATH,
            out=out_dir / "demo.mp4",
            strip=out_dir / "demo.png",
            server=services.address,
            face=face_of(avatar),
        )
        return Demonstration(build_s, start_s, render(job, report))


def face_of(avatar: Avatar) -> Box:
    """Returns the part of the pictures that has the face in every frame: around all rectangles, with a margin."""
    x1, y1 = min(rect.x1 for rect in avatar.rects), min(rect.y1 for rect in avatar.rects)
    x2, y2 = max(rect.x2 for rect in avatar.rects), max(rect.y2 for rect in avatar.rects)
    width, height = x2 - x1, y2 - y1
    return (
        max(0, round(x1 - FACE_SIDES * width)),
        max(0, round(y1 - FACE_ABOVE * height)),
        min(avatar.width, round(x2 + FACE_SIDES * width)),
        min(avatar.height, round(y2 + FACE_BELOW * height)),
    )


def _avatar(models_root: Path) -> tuple[Avatar, float | None]:
    try:
        return AvatarCatalog(models_root).get(AVATAR_ID), None
    except AvatarNotFound:
        started = time.perf_counter()
        with progress_bar() as report:
            avatar = build_demo(models_root, AVATAR_ID, progress=report)
        return avatar, time.perf_counter() - started
