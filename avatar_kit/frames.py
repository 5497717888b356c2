"""An avatar's frames: in a folder of pictures, or in the video that it keeps (`avatar_kit.video.frames`)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from avatar_kit.geometry import Picture
from avatar_kit.held import Held
from avatar_kit.limits import max_picture_bytes
from avatar_kit.pictures import decode_picture
from avatar_kit.safe_files import read_bounded
from avatar_kit.upright import decode_upright


class Frames(Protocol):
    """A clip's frames, readable one by one from any thread, and those of the avatar that was loaded whatever lies there now."""

    @property
    def place(self) -> Path:
        """The folder or the file that they are in."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that they are in."""

    def name(self, index: int) -> str:
        """Names the file that frame `index` is in for messages: never a full path."""

    def read(self, index: int) -> Picture:
        """Frame `index`, 0 .. frame_count - 1: [height, width, 3]. Raises FileProblem about the file of that name."""

    def in_order(self) -> Generator[tuple[int, Callable[[], Picture]]]:
        """Gives the number of each frame, and a function that does as `read` would: the cheapest way to all of them.

        The generator is for one thread at a time, the functions are for any. Its first step raises FileProblem when there is
        nothing to read.
        """


@dataclass(frozen=True, slots=True)
class PictureFrames:
    """A file for each frame."""

    held: Held = field(compare=False)
    """The folder that they are in, or are below."""
    names: tuple[str, ...] = field(repr=False)
    width: int
    height: int
    below: str = ""
    """The folder's place in the one that is held."""
    upright: bool = False
    """Whether pictures that are stored turned are turned as their files say."""

    @property
    def place(self) -> Path:
        """The folder."""
        return self.held.path / self.below

    @property
    def files(self) -> tuple[Path, ...]:
        """The pictures."""
        return tuple(self.place / name for name in self.names)

    def name(self, index: int) -> str:
        """Folder and file."""
        return f"{self.place.name}/{self.names[index]}"

    def read(self, index: int) -> Picture:
        """Reads and decodes the file. Raises FileProblem when it is missing, damaged or of another size."""
        data = read_bounded(self.held.now / self.below / self.names[index], max_picture_bytes(self.width, self.height))
        decode = decode_upright if self.upright else decode_picture
        return decode(data, width=self.width, height=self.height)

    def in_order(self) -> Generator[tuple[int, Callable[[], Picture]]]:
        """Reads nothing by itself."""
        return ((index, partial(self.read, index)) for index in range(len(self.names)))
