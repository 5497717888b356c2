"""Where an avatar's frames are: in a folder of pictures, or in the video that it keeps (`avatar_kit.video.frames`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from avatar_kit.geometry import Picture
from avatar_kit.pictures import MAX_PICTURE_BYTES, decode_picture
from avatar_kit.safe_files import read_bounded


class Frames(Protocol):
    """A clip's frames, readable one by one from any thread."""

    @property
    def place(self) -> Path:
        """The folder or the file that they are in."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that they are in."""

    def name(self, index: int) -> str:
        """What messages call the file that frame `index` is in: never a full path."""

    def read(self, index: int) -> Picture:
        """Frame `index`, 0 .. frame_count - 1: [height, width, 3]. Raises FileProblem about the file of that name."""


@dataclass(frozen=True, slots=True)
class PictureFrames:
    """A file for each frame."""

    files: tuple[Path, ...] = field(repr=False)
    width: int
    height: int

    @property
    def place(self) -> Path:
        """The folder."""
        return self.files[0].parent

    def name(self, index: int) -> str:
        """Folder and file."""
        path = self.files[index]
        return f"{path.parent.name}/{path.name}"

    def read(self, index: int) -> Picture:
        """Reads and decodes the file. Raises FileProblem when it is missing, damaged or of another size."""
        return decode_picture(read_bounded(self.files[index], MAX_PICTURE_BYTES), width=self.width, height=self.height)
