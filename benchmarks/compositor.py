"""Pasting and encoding a frame: spliced against whole pictures on one core, two threads against one, and an avatar's memory.

The whole-picture ways get every advantage: decoded pictures and crops are in memory (2 GB for a real avatar), and the mouth is
pasted in place. Frames and mouths are synthetic; a frame is as large as a real one, some 65 KB at quality 75. Between services
a mouth comes in its rectangle's size: then neither way resizes it.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

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
from benchmarks.figures import Figure, figure, in_turn, median_ratio
from compositing_service.backgrounds.composer import AvatarComposer, open_composer
from compositing_service.backgrounds.frame_cache import FrameCache
from compositing_service.outputs import JpegOutput, RawOutput
from compositing_service.picture.jpeg.encoder import encode
from compositing_service.picture.jpeg.splicing import region_around
from service_kit.malloc import return_free_memory

WIDTH, HEIGHT, QUALITY = 1280, 720, 75
DISTINCT_FRAMES = 24
REAL_FRAMES = 523
ROUNDS = 15
SPEED_GOAL, OTHERS_GOAL, MEMORY_GOAL_MB = 9.0, 6.0, 80.0

UNIT = "us a frame"
FITTED_WHOLE = "OpenCV, whole picture, a mouth of the rectangle's size"

Way = Callable[[int], object]
"""Makes frame i."""


def run() -> list[Figure]:
    """Measures speed and memory. About fifteen seconds."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            avatars = {paste: build(Path(folder), paste) for paste in Paste}
            return [*speed(avatars), *scaling(avatars[Paste.REFERENCE]), memory(avatars[Paste.REFERENCE])]
    finally:
        cv2.setNumThreads(threads)


def build(root: Path, paste: Paste) -> Avatar:
    """Builds an avatar whose rectangles are as large as a real one's and move as much: 173-189 pixels."""
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


def speed(avatars: dict[Paste, Avatar]) -> list[Figure]:
    """Measures microseconds a frame."""
    mouth = make_mouth()
    composers = {paste: ready_composer(avatar) for paste, avatar in avatars.items()}
    reference = composers[Paste.REFERENCE]
    paste_whole = whole_picture_paste(avatars[Paste.REFERENCE], mouth)
    fitted = fitted_mouths(reference, mouth)
    paste_fitted = fitted_paste(avatars[Paste.REFERENCE], fitted)
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
        FITTED_WHOLE: lambda index: cv2.imencode(".jpg", paste_fitted(index), plain),
        "idle frame": lambda index: reference.stored(index, JpegOutput(QUALITY)),
        "resize and encode of the region alone": heavy_part(reference, mouth),
    }
    for paste, composer in composers.items():
        ways[f"spliced, {paste}"] = compositing(composer, mouth)
    ways["spliced, a mouth of the rectangle's size"] = lambda index: reference.composite(
        index, fitted[index], JpegOutput(QUALITY)
    )
    check_equal(compositing(reference, mouth), ways["turbojpeg, whole picture"])
    check_equal(compositing(reference, mouth), ways["spliced, a mouth of the rectangle's size"])
    seconds = in_turn({name: partial(every_frame, way) for name, way in ways.items()}, rounds=ROUNDS)
    times = {name: [each / DISTINCT_FRAMES * 1e6 for each in rounds] for name, rounds in seconds.items()}
    spliced, heavy = times["spliced, reference"], times["resize and encode of the region alone"]
    opencv, turbo = "OpenCV, whole picture", "turbojpeg, whole picture"
    return [
        *(figure(name, median(values), UNIT) for name, values in times.items() if not name.startswith("spliced")),
        *(compared(f"spliced, {paste}", times[f"spliced, {paste}"], opencv, times) for paste in Paste),
        compared("spliced, reference, the same bytes", spliced, turbo, times),
        compared(
            "spliced, a mouth of the rectangle's size", times["spliced, a mouth of the rectangle's size"], FITTED_WHOLE, times
        ),
        figure("spliced, less resize and encode", median(a - b for a, b in zip(spliced, heavy, strict=True)), UNIT),
        *sizes(avatars[Paste.REFERENCE], reference),
    ]


def every_frame(way: Way) -> None:
    """Makes each frame once."""
    for index in range(DISTINCT_FRAMES):
        way(index)


def compared(name: str, times: Sequence[float], other: str, every: Mapping[str, Sequence[float]]) -> Figure:
    """Makes the figure of a way that must be so much faster than another."""
    goal = OTHERS_GOAL if name.endswith((Paste.FEATHER, Paste.DIRECT)) else SPEED_GOAL
    ratio = median_ratio(every[other], times)
    return figure(name, median(times), UNIT, ratio=ratio, compared_with=other, ratio_at_least=goal)


def sizes(avatar: Avatar, composer: AvatarComposer) -> list[Figure]:
    """Measures the bytes that restart markers add on the wire."""
    whole = sum(len(encode(avatar.read_frame(index), quality=QUALITY, restart_interval=0)) for index in range(DISTINCT_FRAMES))
    spliced = sum(len(composer.stored(index, JpegOutput(QUALITY))) for index in range(DISTINCT_FRAMES))
    return [
        figure("file without restart markers", whole / DISTINCT_FRAMES / 1000, "KB"),
        figure(f"growth by markers every {composer.restart_interval} MCUs", (spliced / whole - 1) * 100, "%"),
    ]


def scaling(avatar: Avatar) -> list[Figure]:
    """Measures frames a second of one thread and of two."""
    way = compositing(ready_composer(avatar), make_mouth())

    def on_threads(threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _: every_frame(way), range(20)))

    seconds = in_turn({"one": partial(on_threads, 1), "two": partial(on_threads, 2)}, rounds=5)
    one, two = (20 * DISTINCT_FRAMES / median(seconds[name]) for name in ("one", "two"))
    ratio = median_ratio(seconds["one"], seconds["two"])
    return [
        figure("spliced, one thread", one, "frames/s"),
        figure("spliced, two threads", two, "frames/s", ratio=ratio, compared_with="one thread"),
    ]


def memory(avatar: Avatar) -> Figure:
    """Measures how much 523 frames add to the resident memory of a fresh process, the loader's own memory included."""
    command = [sys.executable, "-m", "benchmarks.compositor", str(avatar.root)]
    tree = Path(__file__).resolve().parent.parent
    grown = int(subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True).stdout)
    return figure(f"memory for {REAL_FRAMES} frames, mouths at rest included", grown / 1e6, "MB", at_most=MEMORY_GOAL_MB)


def weigh(root: Path) -> int:
    """Returns the bytes that the avatar, prepared and at rest, adds to resident memory; its frames repeat to a real length."""
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
    composer, mouth, output = ready_composer(avatar), make_mouth(), JpegOutput(QUALITY)
    return_free_memory()  # as a preload does
    for index, rect in enumerate(avatar.rects):
        composer.keep_resting(index, np.asarray(cv2.resize(mouth, (rect.width, rect.height)), np.uint8), output)
    grown: int = process.memory_info().rss - before
    if (composer.cached_frames(), composer.resting_frames()) != (REAL_FRAMES, REAL_FRAMES):
        raise RuntimeError("not all was kept")
    return grown


def ready_composer(avatar: Avatar) -> AvatarComposer:
    """Opens the avatar with every frame in memory."""
    cache = FrameCache(max_bytes=10**10, policy="lfu")
    frames = cache.open(max_frames=avatar.frame_count)
    composer = open_composer(avatar, cache=cache, frames=frames)
    for index in range(avatar.frame_count):
        composer.prepare(index, quality=QUALITY)
    return composer


def compositing(composer: AvatarComposer, mouth: NDArray[np.uint8]) -> Way:
    """Makes a frame as the service does."""
    return lambda index: composer.composite(index, mouth, JpegOutput(QUALITY))


def whole_picture_paste(avatar: Avatar, mouth: NDArray[np.uint8]) -> Callable[[int], Picture]:
    """Pastes in the straightforward way, into pictures and crops that are in memory."""
    pictures = [avatar.read_frame(index) for index in range(DISTINCT_FRAMES)]
    crops = [crop_328(picture, rect) for picture, rect in zip(pictures, avatar.rects, strict=True)]

    def paste(index: int) -> Picture:
        picture, crop, rect = pictures[index], crops[index], avatar.rects[index]
        crop[4:324, 4:324] = mouth
        target = picture[rect.y1 : rect.y2, rect.x1 : rect.x2]
        cv2.resize(crop, (rect.width, rect.height), dst=target, interpolation=cv2.INTER_CUBIC)
        return picture

    return paste


def fitted_mouths(composer: AvatarComposer, mouth: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Resizes the mouth to each frame's rectangle, as the inference service does."""
    pictures = [composer.composite(index, mouth, RawOutput()) for index in range(DISTINCT_FRAMES)]
    arrays = [np.frombuffer(picture, np.uint8).reshape(HEIGHT, WIDTH, 3) for picture in pictures]
    rects = composer.avatar.rects
    return [array[rect.y1 : rect.y2, rect.x1 : rect.x2].copy() for array, rect in zip(arrays, rects, strict=False)]


def fitted_paste(avatar: Avatar, mouths: Sequence[NDArray[np.uint8]]) -> Callable[[int], Picture]:
    """Pastes mouths of the rectangles' sizes, into pictures that are in memory."""
    pictures = [avatar.read_frame(index) for index in range(DISTINCT_FRAMES)]

    def paste(index: int) -> Picture:
        picture, rect = pictures[index], avatar.rects[index]
        picture[rect.y1 : rect.y2, rect.x1 : rect.x2] = mouths[index]
        return picture

    return paste


def heavy_part(composer: AvatarComposer, mouth: NDArray[np.uint8]) -> Way:
    """Does only OpenCV's part of a frame, on the same pixels. The rest is Python and copies."""
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
    """Makes uint8 [320, 320, 3] with the detail of a face."""
    noise = np.random.default_rng(3).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 4), np.uint8)


def check_equal(ours: Way, theirs: Way) -> None:
    """Raises RuntimeError unless both ways give the same bytes, as only the same work can be compared."""
    for index in range(DISTINCT_FRAMES):
        if ours(index) != theirs(index):
            raise RuntimeError(f"frame {index} differs between splicing and turbojpeg")


if __name__ == "__main__":  # the fresh process of `memory`
    print(weigh(Path(sys.argv[1])))
