"""Reads an avatar's pictures from a folder; `avatar_kit.video.frames` does the same from a video."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from avatar_kit.geometry import Picture
from avatar_kit.held import Held
from avatar_kit.limits import max_picture_bytes
from avatar_kit.pictures import decode_picture
from avatar_kit.safe_files import read_bounded
from avatar_kit.upright import decode_upright


@dataclass(frozen=True, slots=True)
class PictureFrames:
    """Pictures in files, one each; thread-safe. They stay those that were loaded, even if files are replaced."""

    held: Held = field(compare=False)
    """The folder that holds them, or one above it."""
    names: tuple[str, ...] = field(repr=False)
    width: int
    height: int
    below: str = ""
    """Path of the pictures' folder inside the held one."""
    upright: bool = False
    """True: pictures are turned as their EXIF orientation says."""

    @property
    def place(self) -> Path:
        """The folder."""
        return self.held.path / self.below

    @property
    def files(self) -> tuple[Path, ...]:
        """The picture files."""
        return tuple(self.place / name for name in self.names)

    def name(self, index: int) -> str:
        """Returns folder and file."""
        return f"{self.place.name}/{self.names[index]}"

    def read(self, index: int) -> Picture:
        """Reads and decodes the file. Raises FileProblem when it is missing, damaged or of another size."""
        data = read_bounded(self.held.now / self.below / self.names[index], max_picture_bytes(self.width, self.height))
        decode = decode_upright if self.upright else decode_picture
        return decode(data, width=self.width, height=self.height)

    def in_order(self) -> Generator[tuple[int, Callable[[], Picture]]]:
        """Yields readers; reads nothing itself."""
        return ((index, partial(self.read, index)) for index in range(len(self.names)))
