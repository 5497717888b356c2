"""`lipsync demo`: the whole system once, from nothing to a film."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarNotFound
from avatar_tools.demo import SPEECH_PATH, build_demo
from lipsync_cli.processes import ServiceProcess, serve_command
from lipsync_cli.rendering import Job, Rendered, render
from lipsync_cli.screen import progress_bar
from lipsync_cli.strip import Box

AVATAR_ID = "demo"
# The strip shows so much around the mouth's rectangle, in its own widths and heights.
FACE_SIDES = 0.55
FACE_ABOVE = 1.1
FACE_BELOW = 0.2


@dataclass(frozen=True)
class Demonstration:
    """Times of the steps, in seconds; `build_s` is None when the avatar was there already."""

    build_s: float | None
    start_s: float
    rendered: Rendered

    def rows(self) -> list[tuple[str, str]]:
        """For the table of times."""
        build = "was there already" if self.build_s is None else f"{self.build_s:.1f} s"
        return [("build the avatar", build), ("start both services", f"{self.start_s:.1f} s"), *self.rendered.rows()]


def demonstrate(*, models_root: Path, out_dir: Path) -> Demonstration:
    """Builds the demo avatar if it is not there, starts both services and renders the shipped speech to demo.mp4 and demo.png.

    Raises CliError when a service does not start. No process outlives the call.
    """
    avatar, build_s = _avatar(models_root)
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lipsync-demo-")))
        started = time.perf_counter()
        common = [f"models_root={models_root}", "server.port=127.0.0.1:0", "metrics.port=127.0.0.1:0"]
        inference = _started("inference", common, logs, stack)
        address = _started("compositing", [*common, f"inference_server.url={inference}"], logs, stack)
        start_s = time.perf_counter() - started
        report = stack.enter_context(progress_bar("frames"))
        job = Job(
            avatar=AVATAR_ID,
            audio=SPEECH_PATH,
            out=out_dir / "demo.mp4",
            strip=out_dir / "demo.png",
            server=address,
            face=face_of(avatar),
        )
        return Demonstration(build_s, start_s, render(job, report))


def face_of(avatar: Avatar) -> Box:
    """The part of the pictures that holds the face in every frame: what all rectangles cover together, and more around it."""
    x1, y1 = min(rect.x1 for rect in avatar.rects), min(rect.y1 for rect in avatar.rects)
    x2, y2 = max(rect.x2 for rect in avatar.rects), max(rect.y2 for rect in avatar.rects)
    width, height = x2 - x1, y2 - y1
    return (
        max(0, round(x1 - FACE_SIDES * width)),
        max(0, round(y1 - FACE_ABOVE * height)),
        min(avatar.width, round(x2 + FACE_SIDES * width)),
        min(avatar.height, round(y2 + FACE_BELOW * height)),
    )


def _started(name: str, overrides: list[str], logs: Path, stack: ExitStack) -> str:
    """Starts a service that ends with `stack`; returns its address when it is ready."""
    process = ServiceProcess(name, serve_command(name, overrides), log=logs / f"{name}.log")
    return stack.enter_context(process).wait_ready()


def _avatar(models_root: Path) -> tuple[Avatar, float | None]:
    try:
        return AvatarCatalog(models_root).get(AVATAR_ID), None
    except AvatarNotFound:
        started = time.perf_counter()
        with progress_bar("frames") as report:
            avatar = build_demo(models_root, AVATAR_ID, progress=report)
        return avatar, time.perf_counter() - started
