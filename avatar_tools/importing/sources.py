"""A folder of picture files as a source of frames; `videos` has the other source, and the type of both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, TypeVar

import cv2
import numpy as np

from avatar_kit.cores import usable_cores
from avatar_kit.geometry import Picture
from avatar_kit.limits import MAX_PICTURE_BYTES
from avatar_kit.numbering import numbered_frames
from avatar_kit.pictures import check_size, decode_picture, pixels_alone
from avatar_kit.safe_files import FileProblem, read_bounded
from avatar_kit.upright import decode_upright, turned_upright, upright_size

T = TypeVar("T")
R = TypeVar("R")

JPEG_QUALITY = 95  # the pictures are encoded once more when they are served

_AHEAD = 2  # pictures in work for each thread: enough to keep it busy, and few enough for the memory


@dataclass(frozen=True, slots=True)
class FrameFile:
    """One frame's file for the avatar, or its problems."""

    data: bytes
    problems: tuple[str, ...] = ()
    turned: bool = False
    """It is a new file, because the source's is stored turned."""
    see_through: bool = False
    """The picture is transparent somewhere."""


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """Picture files numbered without a gap. They are kept byte for byte, except those that are stored turned."""

    folder: Path
    paths: tuple[Path, ...] = field(repr=False)
    width: int
    height: int

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    @property
    def first_number(self) -> int:
        """The first file's number."""
        return int("".join(character for character in self.paths[0].stem if character.isdigit()))

    def part(self, frames: range) -> Self:
        """Only those of its pictures."""
        return replace(self, paths=self.paths[frames.start : frames.stop])

    def files(self) -> Iterator[FrameFile]:
        """Every file, decoded once to see that it is whole."""
        return in_order(self._file, self.paths)

    def pictures(self) -> Iterator[Picture]:
        """Every picture decoded. Raises FileProblem for the first that cannot be."""
        return in_order(self._picture, self.paths)

    def _file(self, path: Path) -> FrameFile:
        try:
            data = read_bounded(path, MAX_PICTURE_BYTES)
            turned = turned_upright(data)
            if turned is None:
                decode_picture(data, width=self.width, height=self.height, thorough=True)
                return FrameFile(data, see_through=_is_see_through(data))
            check_size(turned.shape[1], turned.shape[0], self.width, self.height)
            return FrameFile(as_jpeg(turned), turned=True)
        except FileProblem as problem:
            return FrameFile(b"", tuple(problem.of(f"{self.name}/{path.name}")))

    def _picture(self, path: Path) -> Picture:
        try:
            return decode_upright(read_bounded(path, MAX_PICTURE_BYTES), width=self.width, height=self.height)
        except FileProblem as problem:
            raise FileProblem([f"has a bad picture: {sentence}" for sentence in problem.of(path.name)]) from None


def _is_see_through(data: bytes) -> bool:
    """A whole picture file is transparent somewhere. JPEG files never are."""
    if not data.startswith(b"\x89PNG"):
        return False
    picture = cv2.imdecode(np.frombuffer(pixels_alone(data), np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim < 3 or picture.shape[2] < 4:
        return False
    opaque = 255 if picture.dtype == np.uint8 else 65535
    return bool((picture[..., 3] < opaque).any())


def as_jpeg(picture: Picture) -> bytes:
    """Encodes a picture as a JPEG file. Raises FileProblem."""
    encoded, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise FileProblem("has a frame that cannot be encoded")
    return jpeg.tobytes()


def open_folder(folder: Path, *, inside: Path) -> PictureFolder:
    """The numbered pictures of a folder, of the first one's size. Raises FileProblem."""
    paths = numbered_frames(folder, inside=inside)
    if not paths:
        raise FileProblem("has no frame pictures in it; they are named 0.jpg, frame_000000.jpg or frame_0000.png and so on")
    try:
        width, height = upright_size(read_bounded(paths[0], MAX_PICTURE_BYTES))
    except FileProblem as problem:
        raise FileProblem([f"has a bad picture: {sentence}" for sentence in problem.of(paths[0].name)]) from None
    return PictureFolder(folder, tuple(paths), width, height)


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields `work` of each item in order, from a thread for each usable core, and at most a few items ahead."""
    threads = usable_cores()
    with ThreadPoolExecutor(threads, thread_name_prefix="import") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
