"""Where an avatar's pictures come from: a folder of picture files, or a video. Either way one at a time, however many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self, TypeVar

import cv2
import numpy as np

from avatar_kit.cores import usable_cores
from avatar_kit.geometry import Picture
from avatar_kit.limits import MAX_PICTURE_BYTES
from avatar_kit.numbering import numbered_frames
from avatar_kit.pictures import check_size, check_thoroughly, pixels_alone
from avatar_kit.safe_files import FileProblem, read_bounded
from avatar_kit.upright import decode_upright, turned_upright, upright_size

T = TypeVar("T")
R = TypeVar("R")

JPEG_QUALITY = 95  # the pictures are encoded once more when they are served

_AHEAD = 2  # pictures in work for each thread: enough that none waits, and few enough to weigh nothing


@dataclass(frozen=True, slots=True)
class FrameFile:
    """One frame as it will lie in the avatar, or what is wrong with it."""

    data: bytes
    problems: tuple[str, ...] = ()
    turned: bool = False
    """Whether it is not the source's file but a new one, as that one lies on its side."""
    see_through: bool = False
    """Whether the picture is transparent somewhere."""


class FrameSource(Protocol):
    """The frames of a clip, 25 a second, in order."""

    @property
    def name(self) -> str:
        """As sentences name it."""

    @property
    def count(self) -> int:
        """Number of frames."""

    @property
    def width(self) -> int:
        """Of every frame, in pixels."""

    @property
    def height(self) -> int:
        """Of every frame, in pixels."""

    def part(self, frames: range) -> Self:
        """Only those of its frames."""

    def files(self) -> Iterator[FrameFile]:
        """Every frame as a picture file. Raises FileProblem when there is no going on."""

    def pictures(self) -> Iterator[Picture]:
        """Every frame decoded. Raises FileProblem."""


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """Picture files numbered without a gap; they are kept byte for byte, but for those that lie on their side."""

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
        """What the files are numbered from."""
        return int("".join(character for character in self.paths[0].stem if character.isdigit()))

    def part(self, frames: range) -> Self:
        """Only those of its pictures."""
        return replace(self, paths=self.paths[frames.start : frames.stop])

    def files(self) -> Iterator[FrameFile]:
        """Every file, decoded once to see that it is whole."""
        return in_order(self._file, self.paths)

    def pictures(self) -> Iterator[Picture]:
        """Every picture decoded. Raises FileProblem for the first that can not be."""
        return in_order(self._picture, self.paths)

    def _file(self, path: Path) -> FrameFile:
        try:
            data = read_bounded(path, MAX_PICTURE_BYTES)
            turned = turned_upright(data)
            if turned is None:
                check_thoroughly(data, width=self.width, height=self.height)
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
    """Whether a whole picture file is transparent somewhere. JPEG files never are."""
    if not data.startswith(b"\x89PNG"):
        return False
    picture = cv2.imdecode(np.frombuffer(pixels_alone(data), np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim < 3 or picture.shape[2] < 4:
        return False
    opaque = 255 if picture.dtype == np.uint8 else 65535
    return bool((picture[..., 3] < opaque).any())


def as_jpeg(picture: Picture) -> bytes:
    """A JPEG file of a picture that is no file yet. Raises FileProblem."""
    encoded, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise FileProblem("has a frame that can not be encoded")
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
    """`work` of each item, in order, on as many threads as there are cores, and never more than a few items ahead."""
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
