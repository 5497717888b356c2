"""Reads an avatar's pictures from its video on demand, without writing anything to disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import av

from avatar_kit.geometry import Picture
from avatar_kit.held import Held
from avatar_kit.manifest import FPS
from avatar_kit.safe_files import FileProblem, check_regular, sha256_of
from avatar_kit.video.files import decoded, opened_video, picture_of
from avatar_kit.video.index import VideoIndex, index_video, is_at_25
from avatar_kit.video.reader import VideoReader

# As many callers at different places of the video can continue without seeking.
_DECODERS = 4
# Frames decoded last: some 17 of 1280x720. They serve parallel threads, which are that far apart, and clips that run back.
_RECENT_BYTES = 24_000_000

EXTRACT = "import it without --keep-video, which extracts its frames"


class VideoFrames:
    """Thread-safe. Indexes the file when the first picture is read. In order, each picture costs one decoding."""

    def __init__(self, held: Held, *, count: int, width: int, height: int, sha256: str | None = None) -> None:
        """`sha256`: of the whole file, in hexadecimal; other content is refused. Nothing is read yet."""
        self.held, self.count, self.width, self.height = held, count, width, height
        self._sha256 = sha256
        self._lock = threading.Lock()
        self._looked_at: tuple[int, int] | None = None
        self._found: VideoIndex | str = ""
        self._reader: VideoReader | None = None

    @property
    def place(self) -> Path:
        """The video."""
        return self.held.path

    @property
    def files(self) -> tuple[Path, ...]:
        """The video."""
        return (self.held.path,)

    def name(self, index: int) -> str:
        """Returns the video's name for messages."""
        return self.held.path.name

    def read(self, index: int) -> Picture:
        """Reads picture `index`, 0 .. count - 1: [height, width, 3]. Raises FileProblem."""
        with self._lock:
            video = self._look_through()
            if self._reader is None:
                self._reader = VideoReader(self.held.now, video, decoders=_DECODERS, recent_bytes=_RECENT_BYTES)
            frame = self._reader.frame(index)
        return self._picture(index, frame)

    def in_order(self) -> Generator[tuple[int, Callable[[], Picture]]]:
        """Decodes each picture once, with a decoder of its own; at the end it also releases the shared decoders.

        The function raises FileProblem for a picture that cannot be decoded.
        """
        with self._lock:
            reader = VideoReader(self.held.now, self._look_through())
        try:
            for index in range(self.count):
                try:
                    read = partial(self._picture, index, reader.frame(index))
                except FileProblem as problem:
                    read = partial(_refuse, str(problem))
                yield index, read
        finally:
            reader.close()
            self.close()

    def close(self) -> None:
        """Releases decoded pictures and decoders; reading opens the file again. Waits for reads in progress."""
        with self._lock:
            if self._reader:
                self._reader.close()

    def _picture(self, index: int, frame: av.VideoFrame) -> Picture:
        picture = picture_of(frame)
        if picture.shape != (self.height, self.width, 3):
            size = f"{picture.shape[1]}x{picture.shape[0]}"
            raise FileProblem(f"has frame {index} of {size}, the avatar is {self.width}x{self.height}")
        return picture

    def _look_through(self) -> VideoIndex:
        """Indexes the file once, and again, from nothing, after the file was written to."""
        modified = self.held.modified()
        if self._looked_at != modified:
            self._looked_at, self._reader = modified, None
            try:
                self._found = self._index()
            except FileProblem as problem:
                self._found = str(problem)
        if isinstance(self._found, str):
            raise FileProblem(self._found)
        return self._found

    def _index(self) -> VideoIndex:
        check_regular(self.held.now)
        if self._sha256 and sha256_of(self.held.now) != self._sha256:
            raise FileProblem("has changed: its SHA-256 is not the one in the manifest")
        index = checked_index(self.held.now)
        if index.count != self.count:
            raise FileProblem(f"has {index.count} frames, the avatar has {self.count}")
        return index


def _refuse(problem: str) -> Picture:
    raise FileProblem(problem)


def open_frames(held: Held) -> VideoFrames:
    """Opens all pictures of an unknown video: indexes it and decodes the first. Raises FileProblem."""
    index = checked_index(held.now)
    with opened_video(held.now) as (container, stream):
        height, width, _ = picture_of(next(decoded(container, stream))).shape
    return VideoFrames(held, count=index.count, width=width, height=height)


def checked_index(path: Path) -> VideoIndex:
    """Returns the index of a video that pictures can be read from. Raises FileProblem with the reason if they cannot."""
    with opened_video(path) as (_, stream):
        codec = stream.codec_context.name
    index = index_video(path)
    if not index.random_access:
        raise FileProblem(f"is {codec}, of which no single frames can be read: {EXTRACT}")
    if not is_at_25(index):
        raise FileProblem(f"does not run at {FPS:g} frames a second throughout (it says {index.rate:.6g}): {EXTRACT}")
    return index


def header_problems(path: Path, width: int, height: int) -> list[str]:
    """Lists the ways in which the video's header differs from that size, either way up. Cheap: nothing is decoded."""
    try:
        with opened_video(path) as (_, stream):
            size = stream.codec_context.width, stream.codec_context.height
    except FileProblem as problem:
        return problem.of(path.name)
    if sorted(size) != sorted((width, height)):
        return [f"{path.name} is {size[0]}x{size[1]}, the avatar is {width}x{height}"]
    return []
