"""Videos of every kind that avatars keep, drawn here, and the frames that PyAV gives of them from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from avatar_kit.held import Held
from avatar_kit.video.frames import VideoFrames

Pictures = list[NDArray[np.uint8]]
COUNT = 75


@dataclass(frozen=True)
class Kind:
    """Recipe of a video."""

    name: str
    codec: str = "libx264"
    options: str = ""
    """x264's or x265's own."""
    size: tuple[int, int] = (96, 64)
    pixels: str = "yuv420p"
    distance: int = 25
    """At most so many frames from keyframe to keyframe."""


Films = Callable[[Kind], tuple[Path, Pictures]]
KINDS = [
    Kind("b-frames.mp4", options="bframes=3:scenecut=0"),
    Kind("b-frames.mkv", options="bframes=3:scenecut=0"),
    Kind("b-frames.ts", options="bframes=3:scenecut=0"),
    Kind("b-frames.avi", options="bframes=3:scenecut=0"),
    Kind("open.mp4", options="open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"),
    Kind("refresh.mp4", options="intra-refresh=1"),
    Kind("long.mp4", distance=1000),
    Kind("odd.mkv", size=(97, 65), pixels="yuv444p"),
    Kind("hevc.mp4", codec="libx265", options="log-level=none:open-gop=1:keyint=25"),
    Kind("part2.mp4", codec="mpeg4", distance=12),
    Kind("part2.avi", codec="mpeg4", distance=12),
    Kind("motion.avi", codec="mjpeg", pixels="yuvj420p"),
    Kind("pro.mov", codec="prores_ks", pixels="yuv422p10le"),
]


def drawn(index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A field that moves behind a disc; no two frames are alike."""
    width, height = size
    field = np.random.default_rng(5).integers(0, 255, (8, 12, 3), np.uint8)
    picture = np.roll(cv2.resize(field, size), index, axis=1)
    cv2.circle(picture, (index % width, height // 2), 9, (index * 7 % 256, 90, 200), -1)
    picture[:6] = index * 3 % 256
    return picture


def write(path: Path, kind: Kind, *, count: int = COUNT, rate: int = 25, stamps: Sequence[int] | None = None) -> Path:
    """`stamps`: when each frame is shown, in 1/1000 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *kind.size, kind.pixels
        stream.options = {"g": str(kind.distance)}
        if kind.codec == "mpeg4":
            stream.options |= {"bf": "2"}
        if kind.options:
            stream.options |= {f"{kind.codec.removeprefix('lib')}-params": kind.options}
        if stamps:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(drawn(index, kind.size), format="bgr24")
            if stamps:
                frame.pts, frame.time_base = stamps[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def in_order(path: Path) -> Pictures:
    """The judge: PyAV's plain decoding from the first frame to the last."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [frame.reformat(format="bgr24", interpolation=Interpolation.BICUBIC).to_ndarray() for frame in frames]


def frames_of(path: Path, pictures: Pictures, **more: Any) -> VideoFrames:
    height, width, _ = pictures[0].shape
    return VideoFrames(Held(path), count=len(pictures), width=width, height=height, **more)


def kind_named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)
