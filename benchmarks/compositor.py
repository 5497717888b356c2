"""Pasting and encoding a frame: spliced against whole pictures on one core; how two threads scale; what an avatar weighs.

The whole-picture ways are given every advantage: decoded pictures and crops lie ready in memory (2 GB for a real avatar), and the
mouth is pasted in place. Frames and mouths are made up; a frame is as large as a real one, some 65 KB at quality 75.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import psutil
import turbojpeg
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar, load_avatar
from avatar_kit.frames import PictureFrames
from avatar_kit.geometry import Paste, Picture, Rect, crop_328
from avatar_kit.held import Held
from avatar_kit.writer import AvatarWriter
from compositing_service.backgrounds.composer import AvatarComposer, open_composer
from compositing_service.backgrounds.frame_cache import FrameCache
from compositing_service.outputs import JpegOutput, RawOutput
from compositing_service.picture.jpeg.encoder import encode
from compositing_service.picture.jpeg.splicing import region_around

WIDTH, HEIGHT, QUALITY = 1280, 720, 75
DISTINCT_FRAMES = 24
REAL_FRAMES = 523
ROUNDS = 15
SPEED_GOAL, MEMORY_GOAL_MB = 6.0, 120.0

Way = Callable[[int], object]
"""Makes frame i."""


def run() -> list[dict[str, Any]]:
    """The figures, as `lipsync bench` shows them. About fifteen seconds."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            avatars = {paste: build(Path(folder), paste) for paste in Paste}
            return [*speed(avatars), *scaling(avatars[Paste.REFERENCE]), memory(avatars[Paste.REFERENCE])]
    finally:
        cv2.setNumThreads(threads)


def build(root: Path, paste: Paste) -> Avatar:
    """An avatar whose rectangles are as large and restless as a real one's: 173-189 pixels."""
    random = np.random.default_rng(7)
    coarse = cv2.resize(random.integers(0, 256, (23, 40, 3), dtype=np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(random.normal(0, 5, (HEIGHT + 64, WIDTH + 64, 3)), (0, 0), 1.0)
    with AvatarWriter(root, f"benchmark-{paste}", width=WIDTH, height=HEIGHT, paste=paste) as writer:
        for _ in range(DISTINCT_FRAMES):
            x, y = random.integers(0, 64, 2)
            picture = np.clip(coarse * 0.6 + 40 + grain[y : y + HEIGHT, x : x + WIDTH], 0, 255).astype(np.uint8)
            side, left, top = random.integers(173, 190), 549 + random.integers(-8, 9), 300 + random.integers(-8, 9)
            jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
            writer.add_frame(jpeg, Rect(int(left), int(top), int(left + side), int(top + side)))
        writer.set_network(b"not run here")
        return writer.finish()


def speed(avatars: dict[Paste, Avatar]) -> list[dict[str, Any]]:
    """Microseconds a frame, each way in turn, over and over, so that a noisy neighbour hits all alike."""
    mouth = make_mouth()
    composers = {paste: ready_composer(avatar) for paste, avatar in avatars.items()}
    reference = composers[Paste.REFERENCE]
    paste_whole = whole_picture_paste(avatars[Paste.REFERENCE], mouth)
    plain = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    ways: dict[str, Way] = {
        "OpenCV, whole picture": lambda index: cv2.imencode(".jpg", paste_whole(index), plain),
        "turbojpeg, whole picture": lambda index: turbojpeg.compress(
            paste_whole(index),
            QUALITY,
            turbojpeg.SAMP.Y420,
            pixelformat=turbojpeg.PF.BGR,
            restartblocks=reference.restart_interval,
        ),
        "idle frame": lambda index: reference.stored(index, JpegOutput(QUALITY)),
        "resize and encode of the region alone": heavy_part(reference, mouth),
    }
    for paste, composer in composers.items():
        ways[f"spliced, {paste}"] = compositing(composer, mouth)
    check_equal(compositing(reference, mouth), ways["turbojpeg, whole picture"])
    times = side_by_side(ways)
    spliced = times["spliced, reference"]
    figures = [figure(name, values) for name, values in times.items() if not name.startswith("spliced")]
    for paste in Paste:
        name = f"spliced, {paste}"
        figures.append(compared(name, times[name], "OpenCV, whole picture", times, goal=SPEED_GOAL))
    figures.append(compared("spliced, reference, the same bytes", spliced, "turbojpeg, whole picture", times, goal=SPEED_GOAL))
    own = [a - b for a, b in zip(spliced, times["resize and encode of the region alone"], strict=True)]
    figures.append(figure("spliced, less resize and encode", own))
    return [*figures, *sizes(avatars[Paste.REFERENCE], reference)]


def sizes(avatar: Avatar, composer: AvatarComposer) -> list[dict[str, Any]]:
    """What the restart markers cost on the wire."""
    whole = sum(len(encode(avatar.read_frame(index), quality=QUALITY, restart_interval=0)) for index in range(DISTINCT_FRAMES))
    spliced = sum(len(composer.stored(index, JpegOutput(QUALITY))) for index in range(DISTINCT_FRAMES))
    return [
        {"name": "file without restart markers", "value": whole / DISTINCT_FRAMES / 1000, "unit": "KB"},
        {"name": f"growth by markers every {composer.restart_interval} MCUs", "value": (spliced / whole - 1) * 100, "unit": "%"},
    ]


def scaling(avatar: Avatar) -> list[dict[str, Any]]:
    """Frames a second of one thread and of two, in turn."""
    way = compositing(ready_composer(avatar), make_mouth())
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(5):
        for threads, seen in rates.items():
            with ThreadPoolExecutor(threads) as pool:
                started = perf_counter()
                list(pool.map(lambda _: [way(index) for index in range(DISTINCT_FRAMES)], range(20)))
                seen.append(20 * DISTINCT_FRAMES / (perf_counter() - started))
    ratio = median(two / one for one, two in zip(rates[1], rates[2], strict=True))
    return [
        {"name": "spliced, one thread", "value": median(rates[1]), "unit": "frames/s"},
        {
            "name": "spliced, two threads",
            "value": median(rates[2]),
            "unit": "frames/s",
            "ratio": ratio,
            "compared_with": "one thread",
        },
    ]


def memory(avatar: Avatar) -> dict[str, Any]:
    """What loading 523 frames adds to the resident memory of a fresh process, working memory of the loader included."""
    command = [sys.executable, "-m", "benchmarks.compositor", "weigh", str(avatar.root)]
    tree = Path(__file__).resolve().parent.parent
    grown = json.loads(subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout)
    return {
        "name": f"memory for {REAL_FRAMES} frames",
        "value": grown / 1e6,
        "unit": "MB",
        "goal": f"<= {MEMORY_GOAL_MB:g} MB",
        "reached": grown <= MEMORY_GOAL_MB * 1e6,
    }


def weigh(root: Path) -> int:
    """Bytes by which resident memory grows when the avatar, its frames repeated to a real length, is prepared."""
    cv2.setNumThreads(1)
    short = load_avatar(root)
    order = [index % DISTINCT_FRAMES for index in range(REAL_FRAMES)]
    avatar = dataclasses.replace(
        short,
        frame_count=REAL_FRAMES,
        frames=PictureFrames(
            Held(short.frames.place), tuple(short.frame_paths[index].name for index in order), short.width, short.height
        ),
        rects=tuple(short.rects[index] for index in order),
    )
    process = psutil.Process()
    before = process.memory_info().rss
    composer = ready_composer(avatar)
    grown: int = process.memory_info().rss - before
    if composer.memory_bytes() < REAL_FRAMES * 10_000:
        raise RuntimeError("the frames were not kept")
    return grown


def ready_composer(avatar: Avatar) -> AvatarComposer:
    """With every frame in memory."""
    cache = FrameCache(max_bytes=10**10, policy="lfu")
    frames = cache.open(max_frames=avatar.frame_count)
    composer = open_composer(avatar, cache=cache, frames=frames)
    for index in range(avatar.frame_count):
        composer.prepare(index, quality=QUALITY)
    return composer


def compositing(composer: AvatarComposer, mouth: NDArray[np.uint8]) -> Way:
    """The service's way."""
    return lambda index: composer.composite(index, mouth, JpegOutput(QUALITY))


def whole_picture_paste(avatar: Avatar, mouth: NDArray[np.uint8]) -> Callable[[int], Picture]:
    """The straightforward paste into pictures and crops that lie ready."""
    pictures = [avatar.read_frame(index) for index in range(DISTINCT_FRAMES)]
    crops = [crop_328(picture, rect) for picture, rect in zip(pictures, avatar.rects, strict=True)]

    def paste(index: int) -> Picture:
        picture, crop, rect = pictures[index], crops[index], avatar.rects[index]
        crop[4:324, 4:324] = mouth
        target = picture[rect.y1 : rect.y2, rect.x1 : rect.x2]
        cv2.resize(crop, (rect.width, rect.height), dst=target, interpolation=cv2.INTER_CUBIC)
        return picture

    return paste


def heavy_part(composer: AvatarComposer, mouth: NDArray[np.uint8]) -> Way:
    """What OpenCV does for a frame, on the same pixels: the rest is Python and copies."""
    avatar, interval = composer.avatar, composer.restart_interval
    regions, sizes = [], []
    for index, rect in enumerate(avatar.rects):
        picture = np.frombuffer(composer.composite(index, mouth, RawOutput()), np.uint8).reshape(HEIGHT, WIDTH, 3)
        part = region_around(rect, width=WIDTH, height=HEIGHT, restart_interval=interval).pixels
        regions.append(picture[part.y1 : part.y2, part.x1 : part.x2].copy())
        sizes.append((rect.width, rect.height))
    crop = cv2.resize(mouth, (328, 328))

    def way(index: int) -> object:
        cv2.resize(crop, sizes[index], interpolation=cv2.INTER_CUBIC)
        return encode(regions[index], quality=QUALITY, restart_interval=interval)

    return way


def make_mouth() -> NDArray[np.uint8]:
    """uint8 [320, 320, 3] with the detail of a face."""
    noise = np.random.default_rng(3).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 4), np.uint8)


def check_equal(ours: Way, theirs: Way) -> None:
    """What is compared must be the same work: the same bytes come out."""
    for index in range(DISTINCT_FRAMES):
        if ours(index) != theirs(index):
            raise RuntimeError(f"frame {index} differs between splicing and turbojpeg")


def side_by_side(ways: dict[str, Way]) -> dict[str, list[float]]:
    """Microseconds a frame of each way in each round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = perf_counter()
            for index in range(DISTINCT_FRAMES):
                way(index)
            times[name].append((perf_counter() - started) / DISTINCT_FRAMES * 1e6)
    return times


def figure(name: str, times: Sequence[float]) -> dict[str, Any]:
    """The median round."""
    return {"name": name, "value": median(times), "unit": "us a frame"}


def compared(name: str, times: Sequence[float], other: str, every: dict[str, list[float]], *, goal: float) -> dict[str, Any]:
    """The median round, and the median of each round's ratio to the other way."""
    ratio = median(theirs / ours for ours, theirs in zip(times, every[other], strict=True))
    return {
        **figure(name, times),
        "ratio": ratio,
        "compared_with": other,
        "goal": f">= {goal:g}x",
        "reached": ratio >= goal,
    }


def main(arguments: Sequence[str]) -> None:
    """Prints a table; `weigh FOLDER` is the fresh process of `memory`."""
    if arguments[:1] == ["weigh"]:
        print(json.dumps(weigh(Path(arguments[1]))))
        return
    for one in run():
        ratio = f"{one['ratio']:6.2f}x {one['compared_with']}" if "ratio" in one else ""
        print(f"{one['name']:40} {one['value']:10.1f} {one['unit']:12} {one.get('goal', ''):12} {ratio}")


if __name__ == "__main__":
    main(sys.argv[1:])
