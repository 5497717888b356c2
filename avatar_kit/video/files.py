"""Opening videos that nobody vouches for, and the one way from what a decoder gives to a frame's picture."""

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

# Containers that hold one video and nothing else: a playlist could name other files, or addresses.
_OPTIONS = {"format_whitelist": "mov,matroska,webm,avi,mpeg,mpegts,ogg,mjpeg", "protocol_whitelist": "file"}

_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


@contextmanager
def opened_video(video: Path) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    """An open video and its first picture stream, of a size that may be decoded. Raises FileProblem."""
    check_regular(video)
    try:
        container = av.open(str(video.absolute()), options=_OPTIONS, metadata_errors="replace")
    except av.error.FFmpegError:
        raise FileProblem("is not a video, or is truncated") from None
    with container:
        yield container, _picture_stream(container)


def decoded(container: av.container.InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """The video's frames in the order in which they are shown. Raises FileProblem when it can not be decoded to its end."""
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
    """The video's frames in order. Raises FileProblem when it can not be read to its end."""
    with opened_video(video) as (container, stream):
        yield from map(picture_of, decoded(container, stream))


def picture_of(frame: av.VideoFrame) -> Picture:
    """[height, width, 3] BGR, the way up that the video says it is to be shown. For any number of threads.

    The same numbers as OpenCV's reader gives, with which the family's tools make the pictures that training sees: hence the
    interpolation of colours that are stored smaller than the picture.
    """
    # A frame's own converter is not for two threads at a time.
    converted = VideoReformatter().reformat(frame, format="bgr24", interpolation=Interpolation.BICUBIC)
    picture = np.asarray(converted.to_ndarray(), np.uint8)
    turn = _TURNS.get(round(frame.rotation) % 360)
    return picture if turn is None else np.asarray(cv2.rotate(picture, turn), np.uint8)


def _picture_stream(container: av.container.InputContainer) -> VideoStream:
    if not container.streams.video:
        raise FileProblem("has no pictures in it")
    stream = container.streams.video[0]
    if stream.codec_context is None:  # cut off before the stream says what it is
        raise FileProblem("is truncated, or of a kind that cannot be decoded")
    if problem := size_problem(stream.codec_context.width, stream.codec_context.height):
        raise FileProblem(problem)
    return stream
