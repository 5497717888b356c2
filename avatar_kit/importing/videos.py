"""A video as a source of frames: counted first, converted to 25 frames a second, decoded in order, encoded on other threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import repeat
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avatar_kit.extraction import JPEG_QUALITY, opened_video
from avatar_kit.geometry import Picture
from avatar_kit.importing.sources import FrameFile, in_order
from avatar_kit.manifest import FPS
from avatar_kit.numbering import MAX_FRAMES
from avatar_kit.safe_files import FileProblem

# Of these every packet is a picture that is shown, so that counting them needs no decoding.
_PACKET_IS_PICTURE = frozenset({"h264", "hevc", "mpeg4", "mjpeg", "prores", "ffv1", "rawvideo"})

_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


@dataclass(frozen=True, slots=True)
class VideoClip:
    """A video of known length. Its own frames are counted apart from those shown 25 times a second."""

    path: Path
    width: int
    height: int
    rate: float
    """The video's own, frames a second."""
    own_count: int
    own_index: NDArray[np.int32] = field(repr=False)
    """Which of its own frames each of the frames at 25 a second is: never decreasing."""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def count(self) -> int:
        """Number of frames at 25 a second."""
        return len(self.own_index)

    @property
    def converted(self) -> bool:
        """Whether frames are left out or repeated to come to 25 a second."""
        return self.count != self.own_count or bool((np.diff(self.own_index) != 1).any())

    def files(self) -> Iterator[FrameFile]:
        """Every frame as a JPEG file. Raises FileProblem when the video can not be decoded to its end."""
        for jpeg, times in in_order(_encoded, self._shown()):
            yield from repeat(FrameFile(jpeg), times)

    def pictures(self) -> Iterator[Picture]:
        """Every frame decoded. Raises FileProblem when the video can not be decoded to its end."""
        for frame, times in self._shown():
            yield from repeat(_picture(frame), times)

    def _shown(self) -> Iterator[tuple[av.VideoFrame, int]]:
        """The video's own frames that are shown, and how many times each."""
        times = np.bincount(self.own_index, minlength=self.own_count)
        with opened_video(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            count = 0
            first: tuple[int, int] | None = None
            for frame in _decoded(container, stream):
                first = first or (frame.width, frame.height)
                if (frame.width, frame.height) != first:
                    raise FileProblem(f"changes its size to {frame.width}x{frame.height} at frame {count}")
                if count < self.own_count and times[count]:
                    yield frame, int(times[count])
                count += 1
        if count != self.own_count:
            raise FileProblem(f"is damaged or truncated: {count} of its {self.own_count} frames can be decoded")


def open_video(path: Path) -> VideoClip:
    """Counts the video's frames and finds out when each is shown; decodes its first. Raises FileProblem."""
    with opened_video(path) as (container, stream):
        first = next(_decoded(container, stream), None)
        if first is None:
            raise FileProblem("has no frames in it")
        height, width = _picture(first).shape[:2]
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    times = _shown_at(path, rate)
    return VideoClip(path, width, height, float(rate), len(times), _at_25(times, rate))


def _shown_at(path: Path, rate: Fraction) -> NDArray[np.float64]:
    """When each frame is shown, in seconds from the first's, in order."""
    with opened_video(path) as (container, stream):
        stamps: list[float] = []
        for count, stamp in enumerate(_stamps(container, stream)):
            if count >= MAX_FRAMES:
                raise FileProblem(f"has more than the {MAX_FRAMES} frames allowed")
            stamps.append(np.nan if stamp is None else float(stamp * (stream.time_base or Fraction(1, 1))))
    times = np.array(stamps)
    if np.isnan(times).any():  # some old containers do not say: then each frame has its turn
        return np.arange(len(times)) / float(rate)
    return np.asarray(np.sort(times) - times.min(), np.float64)


def _stamps(container: av.container.InputContainer, stream: VideoStream) -> Iterator[int | None]:
    if stream.codec_context.name not in _PACKET_IS_PICTURE:
        stream.thread_type = "AUTO"
        yield from (frame.pts for frame in _decoded(container, stream))
        return
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                yield packet.pts
    except av.error.FFmpegError:
        raise FileProblem("is damaged or truncated: it can not be read to its end") from None


def _at_25(times: NDArray[np.float64], rate: Fraction) -> NDArray[np.int32]:
    """For each frame at 25 a second, the last of the video's that has begun, its beginning rounded to the nearest 1/25 s."""
    ticks = np.floor(times * FPS + 0.5).astype(np.int64)
    end = int(np.floor((times[-1] + 1 / float(rate)) * FPS + 0.5))
    count = max(end, int(ticks[-1]) + 1) if end <= MAX_FRAMES else end
    if count > MAX_FRAMES:
        raise FileProblem(f"lasts longer than the {MAX_FRAMES} frames allowed")
    return (np.searchsorted(ticks, np.arange(count), side="right") - 1).astype(np.int32)


def _decoded(container: av.container.InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    count = 0
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise FileProblem(f"is damaged: frame {count} can not be decoded whole")
            yield frame
            count += 1
    except av.error.FFmpegError:
        raise FileProblem(f"is damaged or truncated: it can not be decoded past frame {count}") from None


def _encoded(shown: tuple[av.VideoFrame, int]) -> tuple[bytes, int]:
    frame, times = shown
    encoded, jpeg = cv2.imencode(".jpg", _picture(frame), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise FileProblem("has a frame that can not be encoded")
    return jpeg.tobytes(), times


def _picture(frame: av.VideoFrame) -> Picture:
    """[height, width, 3] BGR, the way up that the video says it is to be shown."""
    picture = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
    turn = _TURNS.get(round(frame.rotation) % 360)
    return picture if turn is None else np.asarray(cv2.rotate(picture, turn), np.uint8)
