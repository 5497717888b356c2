"""The error of a refused import, and the names of frames in its sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from avatar_kit.errors import MOST_SHOWN, AvatarError


class ImportRefused(AvatarError):
    """The source cannot become an avatar as it is. `problems` has one sentence for each fault; nothing was written."""


def spans(indices: Iterable[int]) -> str:
    """Frames counted from 0, in words: "frames 3 to 5, 9". At most ten runs are named."""
    runs: list[tuple[int, int]] = []
    total = 0
    for index in sorted(set(indices)):
        total += 1
        if runs and runs[-1][1] == index - 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    shown = [str(low) if low == high else f"{low} to {high}" for low, high in itertools.islice(runs, MOST_SHOWN)]
    more = f" and more, {total} in all" if len(runs) > MOST_SHOWN else ""
    return f"frame{'s' if total != 1 else ''} {', '.join(shown)}{more}"
