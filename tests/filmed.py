"""Avatars in two forms with the very same frames: in the video that one keeps, and as the lossless pictures of the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import Rect
from avatar_kit.video import reader
from avatar_kit.video.index import Start, VideoIndex
from avatar_kit.writer import AvatarWriter


def write_film(path: Path, pictures: Sequence[NDArray[np.uint8]], *, keyframes: int = 12, quality: int = 18) -> Path:
    """H.264 with B-frames, a keyframe at least every so many frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(quality), "preset": "veryfast", "g": str(keyframes), "x264-params": "bframes=2:scenecut=0"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def shown(path: Path) -> list[NDArray[np.uint8]]:
    """Its frames from beginning to end, as PyAV gives them."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [frame.reformat(format="bgr24", interpolation=Interpolation.BICUBIC).to_ndarray() for frame in frames]


def both_forms(
    avatar: Avatar,
    models_root: Path,
    *,
    names: tuple[str, str] = ("kept", "extracted"),
    rounds: int = 1,
    keyframes: int = 12,
    features: NDArray[np.float32] | None = None,
    **properties: Any,
) -> tuple[Avatar, Avatar]:
    """The avatar filmed, its clip shown `rounds` times over: with the video kept, and with the video's frames as PNG.

    `properties`: of the two, where they are not as the avatar's.
    """
    pictures = [avatar.read_frame(index) for index in range(avatar.frame_count)] * rounds
    models_root.mkdir(exist_ok=True)
    film = write_film(models_root / f"{names[0]}.mp4", pictures, keyframes=keyframes)
    made = []
    for name in names:
        own = {"loop": avatar.loop, "paste": avatar.paste, "mask": avatar.mask} | properties
        with AvatarWriter(models_root, name, width=avatar.width, height=avatar.height, **own) as writer:
            rects: list[Rect] = list(avatar.rects) * rounds
            if name == names[0]:
                writer.set_video(film, rects)
            else:
                for picture, rect in zip(shown(film), rects, strict=True):
                    writer.add_frame(cv2.imencode(".png", picture)[1].tobytes(), rect)
            if features is not None:
                writer.set_features(features)
            writer.set_network(avatar.network_path)
            if avatar.audio_encoder_path:
                writer.set_audio_encoder(avatar.audio_encoder_path)
            made.append(writer.finish())
    film.unlink()
    return made[0], made[1]


def watch_decoding(patch: pytest.MonkeyPatch, told: Callable[[int], object]) -> None:
    """Tells of each frame that is decoded from now on, before it is, on the thread that does it."""
    real = reader.frames_from

    def watched(path: Path, index: VideoIndex, start: Start) -> Generator[av.VideoFrame]:
        with closing(real(path, index, start)) as frames:
            for number in range(start.frame, index.count):
                told(number)
                yield next(frames)

    patch.setattr(reader, "frames_from", watched)


def damage(avatar: Avatar) -> None:
    """Overwrites a part of its video, behind the avatar's back."""
    assert avatar.video
    path = avatar.video.place
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = b"\x00\xff" * 100
    path.write_bytes(data)
