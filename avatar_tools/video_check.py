"""Seeing that every frame of a video can be read, and that it is the same picture wherever decoding begins."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from avatar_kit.safe_files import FileProblem
from avatar_kit.video.cursor import VideoCursor
from avatar_kit.video.files import picture_of
from avatar_kit.video.frames import EXTRACT, checked_index
from avatar_kit.video.index import BEGINNING, Start, VideoIndex


def check_video(path: Path, *, width: int, height: int, progress: Callable[[int, int], None] | None = None) -> int:
    """The number of frames, each decoded on the way from the beginning and from its keyframe. Takes seconds.

    `progress` is told how many are done and how many there are. Raises FileProblem with what keeps the video from being served.
    """
    index = checked_index(path)
    report = progress or (lambda _done, _count: None)
    with ExitStack() as stack:
        whole = VideoCursor(path, index, BEGINNING)
        stack.callback(whole.close)
        for number, start in enumerate(index.starts):
            stop = index.starts[number + 1].frame if number + 1 < len(index.starts) else index.count
            entered = _Entered(path, index, start) if number else None
            for frame in range(start.frame, stop):
                picture = picture_of(whole.advance())
                if picture.shape != (height, width, 3):
                    size = f"{picture.shape[1]}x{picture.shape[0]}"
                    raise FileProblem(f"has frame {frame} of {size}, expected {width}x{height}")
                if entered and not entered.agrees(picture):
                    entered.close()
                    raise FileProblem(f"gives another frame {frame} when it is entered at frame {start.frame}: {EXTRACT}")
                report(frame + 1, index.count)
            if entered:
                entered.close()
    return index.count


class _Entered:
    """A decoder that entered at a keyframe. One that can not is none that frames are read with: they are entered farther back."""

    def __init__(self, path: Path, index: VideoIndex, start: Start) -> None:
        self._cursor: VideoCursor | None = VideoCursor(path, index, start)

    def agrees(self, picture: np.ndarray) -> bool:
        if self._cursor is None:
            return True
        try:
            return np.array_equal(picture_of(self._cursor.advance()), picture)
        except FileProblem:
            self.close()
            return True

    def close(self) -> None:
        if self._cursor:
            self._cursor.close()
            self._cursor = None
