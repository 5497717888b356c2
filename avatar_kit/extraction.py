"""The frames of an avatar from its video, for packages that come without pictures."""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from avatar_kit.geometry import Picture
from avatar_kit.pictures import size_problem
from avatar_kit.safe_files import FileProblem, check_regular

JPEG_QUALITY = 95  # the pictures are encoded once more when they are served

# Containers that hold one video and nothing else: a playlist could name other files, or addresses.
_OPTIONS = {"format_whitelist": "mov,matroska,webm,avi,mpeg,mpegts,ogg,mjpeg", "protocol_whitelist": "file"}


def needs_extraction(folder: Path) -> bool:
    """Whether the folder of frames is missing or quite empty."""
    try:
        return next(folder.iterdir(), None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False


def extract_frames(video: Path, folder: Path, *, limit: int | None = None, progress: Callable[[int], None] | None = None) -> None:
    """Writes the video's frames, at most `limit`, as frame_000000.jpg and so on into `folder`, which must be missing or empty.

    The folder gets all of them at once; of several processes that do this at the same time one wins and the others' work is
    dropped. `progress` is told the number of frames written. Blocks for seconds. Raises FileProblem about the video.
    """
    partial = folder.parent / f".{folder.name}.{secrets.token_hex(6)}.partial"
    try:
        partial.mkdir(parents=True)
        for index, picture in enumerate(video_pictures(video)):
            if limit is not None and index >= limit:
                break
            _write_jpeg(partial / f"frame_{index:06d}.jpg", picture)
            if progress:
                progress(index + 1)
        _move_into_place(partial, folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FileProblem(f"holds the frames, but they can not be written into background_dir: {reason}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def video_pictures(video: Path) -> Iterator[Picture]:
    """The video's frames in order, BGR. Raises FileProblem when it can not be read to its end."""
    with opened_video(video) as (container, stream):
        count = 0
        try:
            for frame in container.decode(stream):
                yield np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
                count += 1
        except av.error.FFmpegError:
            raise FileProblem(f"is damaged or truncated: it can not be decoded past frame {count}") from None
        if not count:
            raise FileProblem("has no frames in it")


@contextmanager
def opened_video(video: Path) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    """An open video and its first picture stream, of a size that may be decoded. Raises FileProblem."""
    check_regular(video)
    try:
        container = av.open(str(video.absolute()), options=_OPTIONS, metadata_errors="replace")
    except av.error.FFmpegError:
        raise FileProblem("is not a video, or is truncated") from None
    with container:
        if not container.streams.video:
            raise FileProblem("has no pictures in it")
        stream = container.streams.video[0]
        if stream.codec_context is None:  # cut off before the stream says what it is
            raise FileProblem("is truncated, or of a kind that can not be decoded")
        if problem := size_problem(stream.codec_context.width, stream.codec_context.height):
            raise FileProblem(problem)
        yield container, stream


def _write_jpeg(path: Path, picture: Picture) -> None:
    encoded, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise FileProblem("has a frame that can not be encoded")
    path.write_bytes(jpeg.tobytes())


def _move_into_place(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)  # replaces an empty folder
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
