"""Checks that every frame of a video can be read, and is the same picture wherever decoding begins."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np

from avatar_kit.safe_files import FileProblem
from avatar_kit.video.files import picture_of
from avatar_kit.video.frames import EXTRACT, checked_index
from avatar_kit.video.index import BEGINNING, Start
from avatar_kit.video.reader import NoStart, frames_from


def check_video(path: Path, *, width: int, height: int, progress: Callable[[int, int], None] | None = None) -> int:
    """Decodes each frame from the beginning and from its keyframe, and returns their number. Takes seconds.

    `progress` gets the number of frames done and of all. Raises FileProblem with the reason why the video cannot be served.
    """
    index = checked_index(path)
    with closing(frames_from(path, index, BEGINNING)) as whole:
        for start, following in pairwise([*index.starts, Start(index.count)]):
            with closing(frames_from(path, index, start)) as entered:
                for number in range(start.frame, following.frame):
                    picture = picture_of(next(whole))
                    if picture.shape != (height, width, 3):
                        size = f"{picture.shape[1]}x{picture.shape[0]}"
                        raise FileProblem(f"has frame {number} of {size}, expected {width}x{height}")
                    try:
                        other = next(entered, None) if start.frame else None
                    except NoStart:  # frames are not read by it either: they are entered farther back
                        entered.close()
                        other = None
                    if other is not None and not np.array_equal(picture_of(other), picture):
                        raise FileProblem(f"gives another frame {number} when it is entered at frame {start.frame}: {EXTRACT}")
                    if progress:
                        progress(number + 1, index.count)
    return index.count
