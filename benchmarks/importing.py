"""Importing an avatar of 2,000 frames at 1280x720, from pictures and from a video: frames a second, and what memory it takes.

Every import is a process of its own, as people start it, so that its peak of memory is its own and start-up counts. The plain way
that stands beside the video is the one of the family's own tool: OpenCV reads a frame and writes it, one after the other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import av
import cv2
import numpy as np

from avatar_kit.pictures import decode_picture
from avatar_tools.benchmark_frames import HEIGHT, WIDTH, benchmark_clip
from avatar_tools.networks.free import free_network
from lipsync_cli.main import app

FRAMES, FEW_FRAMES = 2000, 500
DISTINCT_FRAMES = 100
SPEED_GOAL = 80.0
GROWTH_GOAL_MB = 10.0

_TREE = Path(__file__).resolve().parent.parent


class Import(NamedTuple):
    """One import, start of the process included."""

    frames_per_s: float
    peak_bytes: int


def run() -> list[dict[str, Any]]:
    """The figures, as `lipsync bench` shows them. About two minutes."""
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
    return [
        {**speed("from pictures", many), **goal(many.frames_per_s)},
        {
            **speed("from a video", from_video),
            **goal(from_video.frames_per_s),
            "ratio": from_video.frames_per_s / plain,
            "compared_with": "OpenCV, one by one",
        },
        {"name": "OpenCV, one by one, from a video", "value": plain, "unit": "frames/s"},
        {"name": f"peak memory, {FEW_FRAMES} frames", "value": few.peak_bytes / 1e6, "unit": "MB"},
        {"name": f"peak memory, {FRAMES} frames", "value": many.peak_bytes / 1e6, "unit": "MB"},
        growth(few, many),
        {"name": f"peak memory, {FRAMES} frames from a video", "value": from_video.peak_bytes / 1e6, "unit": "MB"},
    ]


def draw() -> tuple[list[bytes], list[str]]:
    """Distinct frames and their landmarks; a clip repeats them back and forth."""
    clip = benchmark_clip()
    landmarks = []
    for index in range(DISTINCT_FRAMES):
        rect = clip.rect(index)
        points = np.full((110, 2), 300.0)
        points[1, 0], points[31, 0], points[52, 1] = rect.x1, rect.x2, rect.y1
        landmarks.append("".join(f"{x} {y}\n" for x, y in points.tolist()))
    return [clip.jpeg(index) for index in range(DISTINCT_FRAMES)], landmarks


def shown(index: int) -> int:
    """Which of the distinct frames is the clip's frame `index`: there and back, so that nothing jumps."""
    turn = index % (2 * DISTINCT_FRAMES)
    return min(turn, 2 * DISTINCT_FRAMES - 1 - turn)


def write_network(path: Path) -> Path:
    """A network that costs nothing: importing copies it."""
    path.write_bytes(free_network(np.zeros((1, 320, 320, 3), np.uint8)).SerializeToString())
    return path


def write_pictures(folder: Path, count: int, jpegs: Sequence[bytes], landmarks: Sequence[str]) -> Path:
    """The research layout."""
    for name in ("full_body_img", "landmarks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        (folder / "full_body_img" / f"{index}.jpg").write_bytes(jpegs[shown(index)])
        (folder / "landmarks" / f"{index}.lms").write_text(landmarks[shown(index)])
    return folder


def write_video(path: Path, jpegs: Sequence[bytes]) -> Path:
    """H.264 as cameras and editors write it, at about 6 Mbit/s."""
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
    """Runs `lipsync avatar import` in a fresh process, which weighs itself at the end."""
    with tempfile.TemporaryDirectory(dir=source.parent) as models:
        arguments = ["avatar", "import", str(source), "--id", "clip", "--models-root", models, "--checkpoint", str(network)]
        command = [sys.executable, "-m", "benchmarks.importing", "weigh", *arguments, *options]
        started = perf_counter()
        ended = subprocess.run(command, cwd=_TREE, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        seconds = perf_counter() - started
        written = len(list(Path(models, "clip", "frames").glob("*.jpg")))
    if written != frames:
        raise RuntimeError(f"{written} of {frames} frames were written")
    return Import(frames / seconds, int(ended.stdout.split()[-1]))


def weigh(arguments: Sequence[str]) -> None:
    """Runs the command line in this process and prints the most memory that it ever had resident, in bytes.

    Not `getrusage`: its figure begins with what the parent had when it forked.
    """
    app(list(arguments), standalone_mode=False)
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def plain_way(video: Path, folder: Path) -> float:
    """Frames a second of OpenCV's reader and writer in one loop."""
    folder.mkdir()
    capture = cv2.VideoCapture(str(video))
    started = perf_counter()
    count = 0
    while True:
        there, picture = capture.read()
        if not there:
            break
        cv2.imwrite(str(folder / f"{count}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
        count += 1
    capture.release()
    if count != FRAMES:
        raise RuntimeError(f"OpenCV read {count} frames")
    return count / (perf_counter() - started)


def speed(name: str, one: Import) -> dict[str, Any]:
    """Its frames a second."""
    return {"name": f"{FRAMES} frames {name}", "value": one.frames_per_s, "unit": "frames/s"}


def goal(frames_per_s: float) -> dict[str, Any]:
    """The promised speed."""
    return {"goal": f">= {SPEED_GOAL:g} frames/s", "reached": frames_per_s >= SPEED_GOAL}


def growth(few: Import, many: Import) -> dict[str, Any]:
    """What four times as many frames add to the peak; kept pictures would add gigabytes, kept JPEG some 300 MB."""
    grown = (many.peak_bytes - few.peak_bytes) / 1e6
    return {
        "name": f"memory that {FRAMES - FEW_FRAMES} more frames add",
        "value": grown,
        "unit": "MB",
        "goal": f"<= {GROWTH_GOAL_MB:g} MB",
        "reached": grown <= GROWTH_GOAL_MB,
    }


if __name__ == "__main__" and sys.argv[1:2] == ["weigh"]:
    weigh(sys.argv[2:])
elif __name__ == "__main__":
    for figure in run():
        print(f"{figure['name']:45} {figure['value']:10.1f} {figure['unit']:10} {figure.get('goal', '')}")
