"""Importing an avatar of 2,000 frames at 1280x720, from pictures and from a video: frames a second, and peak memory.

Every import is a process of its own, as people start it, so that its peak of memory is its own and start-up counts. The video is
compared with the way of the research tool: OpenCV reads a frame and writes it, one after the other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import av
import cv2
import numpy as np

from avatar_kit.pictures import decode_picture
from avatar_tools.benchmark_frames import HEIGHT, WIDTH, benchmark_clip
from avatar_tools.networks.free import free_network
from benchmarks.figures import Figure, figure
from lipsync_cli.main import app

FRAMES, FEW_FRAMES = 2000, 500
DISTINCT_FRAMES = 100
SPEED_GOAL = 80.0
GROWTH_GOAL_MB = 10.0

_TREE = Path(__file__).resolve().parent.parent


class Import(NamedTuple):
    """The figures of one import, with the start of the process."""

    frames_per_s: float
    peak_bytes: int


def run() -> list[Figure]:
    """Measures imports. About two minutes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        network = write_network(root / "network.onnx")
        jpegs, landmarks = draw()
        pictures = {count: write_pictures(root / f"pictures-{count}", count, jpegs, landmarks) for count in (FEW_FRAMES, FRAMES)}
        video = write_video(root / "clip.mp4", jpegs)
        points = pictures[FRAMES] / "landmarks"
        few = import_(pictures[FEW_FRAMES], network, FEW_FRAMES)
        many = import_(pictures[FRAMES], network, FRAMES)
        from_video = import_(video, network, FRAMES, "--landmarks", str(points))
        plain = plain_way(video, root / "plain")
    ratio = from_video.frames_per_s / plain
    grown = (many.peak_bytes - few.peak_bytes) / 1e6
    opencv = "OpenCV, one by one"
    return [
        figure(f"{FRAMES} frames from pictures", many.frames_per_s, "frames/s", at_least=SPEED_GOAL),
        figure(
            f"{FRAMES} frames from a video",
            from_video.frames_per_s,
            "frames/s",
            ratio=ratio,
            compared_with=opencv,
            at_least=SPEED_GOAL,
        ),
        figure(f"{opencv}, from a video", plain, "frames/s"),
        figure(f"peak memory, {FEW_FRAMES} frames", few.peak_bytes / 1e6, "MB"),
        figure(f"peak memory, {FRAMES} frames", many.peak_bytes / 1e6, "MB"),
        # Kept pictures would add gigabytes, kept JPEG files some 300 MB.
        figure(f"memory that {FRAMES - FEW_FRAMES} more frames add", grown, "MB", at_most=GROWTH_GOAL_MB),
        figure(f"peak memory, {FRAMES} frames from a video", from_video.peak_bytes / 1e6, "MB"),
    ]


def draw() -> tuple[list[bytes], list[str]]:
    """Draws distinct frames and their landmarks; a clip repeats them back and forth."""
    clip = benchmark_clip()
    landmarks = []
    for index in range(DISTINCT_FRAMES):
        rect = clip.rect(index)
        points = np.full((110, 2), 300.0)
        points[1, 0], points[31, 0], points[52, 1] = rect.x1, rect.x2, rect.y1
        landmarks.append("".join(f"{x} {y}\n" for x, y in points.tolist()))
    return [clip.jpeg(index) for index in range(DISTINCT_FRAMES)], landmarks


def shown(index: int) -> int:
    """Returns the distinct frame for the clip's frame `index`: there and back, so that nothing jumps."""
    turn = index % (2 * DISTINCT_FRAMES)
    return min(turn, 2 * DISTINCT_FRAMES - 1 - turn)


def write_network(path: Path) -> Path:
    """Writes a network that costs nothing; importing copies it."""
    path.write_bytes(free_network(np.zeros((1, 320, 320, 3), np.uint8)).SerializeToString())
    return path


def write_pictures(folder: Path, count: int, jpegs: Sequence[bytes], landmarks: Sequence[str]) -> Path:
    """Writes a folder in the research layout."""
    for name in ("full_body_img", "landmarks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        (folder / "full_body_img" / f"{index}.jpg").write_bytes(jpegs[shown(index)])
        (folder / "landmarks" / f"{index}.lms").write_text(landmarks[shown(index)])
    return folder


def write_video(path: Path, jpegs: Sequence[bytes]) -> Path:
    """Writes H.264 as cameras and editors do, at about 6 Mbit/s."""
    pictures = [decode_picture(jpeg, width=WIDTH, height=HEIGHT) for jpeg in jpegs]
    frames = [av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="yuv420p") for picture in pictures]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 6_000_000
        stream.options = {"preset": "superfast", "bf": "2"}
        for index in range(FRAMES):
            frame = frames[shown(index)]
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def import_(source: Path, network: Path, frames: int, *options: str) -> Import:
    """Runs `lipsync avatar import` in a fresh process, which reports its memory at the end."""
    with tempfile.TemporaryDirectory(dir=source.parent) as models:
        arguments = ["avatar", "import", str(source), "--id", "clip", "--models-root", models, "--checkpoint", str(network)]
        command = [sys.executable, "-m", "benchmarks.importing", *arguments, *options]
        started = perf_counter()
        ended = subprocess.run(command, cwd=_TREE, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        seconds = perf_counter() - started
        written = len(list(Path(models, "clip", "frames").glob("*.jpg")))
    if written != frames:
        raise RuntimeError(f"{written} of {frames} frames were written")
    return Import(frames / seconds, int(ended.stdout.split()[-1]))


def weigh(arguments: Sequence[str]) -> None:
    """Runs the command line in this process and prints its peak of resident memory, in bytes.

    `getrusage` would not do: its figure begins with the parent's memory at the fork.
    """
    app(list(arguments), standalone_mode=False)
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def plain_way(video: Path, folder: Path) -> float:
    """Measures frames a second of OpenCV's reader and writer in one loop."""
    folder.mkdir()
    capture = cv2.VideoCapture(str(video))
    started = perf_counter()
    count = 0
    while True:
        found, picture = capture.read()
        if not found:
            break
        cv2.imwrite(str(folder / f"{count}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
        count += 1
    capture.release()
    if count != FRAMES:
        raise RuntimeError(f"OpenCV read {count} frames")
    return count / (perf_counter() - started)


if __name__ == "__main__":  # the fresh process of `import_`
    weigh(sys.argv[1:])
