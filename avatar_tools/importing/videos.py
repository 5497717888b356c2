"""A video as a source of frames: counts them first, converts to 25 a second, decodes in order and encodes on other threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Self, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import Picture
from avatar_kit.safe_files import FileProblem
from avatar_kit.video.files import decoded, opened_video, picture_of
from avatar_kit.video.index import at_25, index_video
from avatar_tools.importing.sources import FrameFile, PictureFolder, as_jpeg, in_order


@dataclass(frozen=True, slots=True)
class VideoClip:
    """A video of known length. Its own frames are counted apart from those shown 25 times a second."""

    path: Path
    width: int
    height: int
    rate: float
    """The video's own rate, frames a second."""
    own_count: int
    own_index: NDArray[np.int32] = field(repr=False)
    """The own frame's index for each frame at 25 a second, never decreasing."""

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
        """Frames are left out or repeated to reach 25 a second."""
        return self.count != self.own_count or bool((np.diff(self.own_index) != 1).any())

    def part(self, frames: range) -> Self:
        """Only those of its frames; it is decoded to its end all the same."""
        return replace(self, own_index=self.own_index[frames.start : frames.stop])

    def files(self) -> Iterator[FrameFile]:
        """Every frame as a JPEG file. Raises FileProblem when the video cannot be decoded to its end."""
        for jpeg, times in in_order(_encoded, self._shown()):
            yield from repeat(FrameFile(jpeg), times)

    def pictures(self) -> Iterator[Picture]:
        """Every frame decoded. Raises FileProblem when the video cannot be decoded to its end."""
        for frame, times in self._shown():
            yield from repeat(picture_of(frame), times)

    def _shown(self) -> Iterator[tuple[av.VideoFrame, int]]:
        """Yields the video's own frames that are shown, each with the number of times."""
        times = np.bincount(self.own_index, minlength=self.own_count)
        with opened_video(self.path) as (container, stream):
            stream.thread_type = "AUTO"
            count = 0
            first: tuple[int, int] | None = None
            for frame in decoded(container, stream):
                first = first or (frame.width, frame.height)
                if (frame.width, frame.height) != first:
                    raise FileProblem(f"changes its size to {frame.width}x{frame.height} at frame {count}")
                if count < self.own_count and times[count]:
                    yield frame, int(times[count])
                count += 1
        if count != self.own_count:
            raise FileProblem(f"is damaged or truncated: {count} of its {self.own_count} frames can be decoded")


FrameSource: TypeAlias = PictureFolder | VideoClip
"""The frames of a clip, 25 a second, one at a time and in order."""


def open_video(path: Path) -> VideoClip:
    """Counts the video's frames, reads the time of each, and decodes the first. Raises FileProblem."""
    with opened_video(path) as (container, stream):
        height, width = picture_of(next(decoded(container, stream))).shape[:2]
    index = index_video(path)
    return VideoClip(path, width, height, index.rate, index.count, at_25(index))


def _encoded(shown: tuple[av.VideoFrame, int]) -> tuple[bytes, int]:
    frame, times = shown
    return as_jpeg(picture_of(frame)), times
