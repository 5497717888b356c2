"""Opens videos from untrusted sources, and converts decoded frames to pictures in the one way used everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from avatar_kit.geometry import Picture
from avatar_kit.pictures import size_problem
from avatar_kit.safe_files import FileProblem, check_regular

# Containers of a single video: a playlist could name other files or addresses.
_OPTIONS = {"format_whitelist": "mov,matroska,webm,avi,mpeg,mpegts,ogg,mjpeg", "protocol_whitelist": "file"}

_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


@contextmanager
def opened_video(video: Path) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    """Opens a video and its first picture stream, of a size that may be decoded. Raises FileProblem."""
    check_regular(video)
    try:
        container = av.open(str(video.absolute()), options=_OPTIONS, metadata_errors="replace")
    except av.error.FFmpegError:
        raise FileProblem("is not a video, or is truncated") from None
    with container:
        yield container, _picture_stream(container)


def decoded(container: av.container.InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Decodes the video's frames in the order shown. Raises FileProblem if it cannot be decoded to its end."""
    count = 0
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise FileProblem(f"is damaged: frame {count} cannot be decoded whole")
            yield frame
            count += 1
    except av.error.FFmpegError:
        raise FileProblem(f"is damaged or truncated: it cannot be decoded past frame {count}") from None
    if not count:
        raise FileProblem("has no frames in it")


def video_pictures(video: Path) -> Iterator[Picture]:
    """Yields the video's pictures in order. Raises FileProblem if it cannot be read to its end."""
    with opened_video(video) as (container, stream):
        yield from map(picture_of, decoded(container, stream))


def picture_of(frame: av.VideoFrame) -> Picture:
    """Converts a frame to [height, width, 3] BGR, turned as the video says. Thread-safe.

    Gives the same numbers as OpenCV's reader, which the family's tools use to make training pictures: hence the interpolation
    of subsampled colours.
    """
    # A frame's own converter is not thread-safe.
    converted = VideoReformatter().reformat(frame, format="bgr24", interpolation=Interpolation.BICUBIC)
    picture = np.asarray(converted.to_ndarray(), np.uint8)
    turn = _TURNS.get(round(frame.rotation) % 360)
    return picture if turn is None else np.asarray(cv2.rotate(picture, turn), np.uint8)


def _picture_stream(container: av.container.InputContainer) -> VideoStream:
    if not container.streams.video:
        raise FileProblem("has no pictures in it")
    stream = container.streams.video[0]
    if stream.codec_context is None:  # cut off before its codec is given
        raise FileProblem("is truncated, or of a kind that cannot be decoded")
    if problem := size_problem(stream.codec_context.width, stream.codec_context.height):
        raise FileProblem(problem)
    return stream
