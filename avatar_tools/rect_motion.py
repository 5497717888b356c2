"""Judges the motion of the crop rectangles: they should follow the head, and a jump of theirs makes the mouth jump."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from avatar_kit.errors import shortened
from avatar_kit.geometry import Rect
from avatar_kit.timeline import Loop

# From one frame to the next a head moves by less than this part of the rectangle's width, and changes its size by less.
_JUMP = 0.25
_RESIZE = 0.15
# A moving head changes its speed by a pixel or two a frame. Rectangles tremble when half of the frames exceed this.
_TREMBLE = 0.04
_FEW_FRAMES = 25  # too few for a median
_MOST_OBLONG = 1.25  # training crops squares; clamping at an edge costs a little


def motion_warnings(rects: Sequence[Rect], *, loop: Loop, width: int, height: int) -> list[str]:
    """Warns of rectangles that jump, change their size suddenly, tremble, are far from square or touch the picture's edge."""
    steps = list(itertools.pairwise(enumerate(rects)))
    if loop is Loop.FORWARD and len(rects) > 1:
        steps.append(((len(rects) - 1, rects[-1]), (0, rects[0])))
    sudden = [
        f"frame {at}: the rectangle {what} after frame {before}"
        for (before, one), (at, two) in steps
        if (what := _sudden(one, two))
    ]
    oblong = [
        index for index, rect in enumerate(rects) if max(rect.width, rect.height) > _MOST_OBLONG * min(rect.width, rect.height)
    ]
    warnings = shortened(sudden)
    trembling = _typical_tremble(rects)
    if trembling > _TREMBLE * max(rect.width for rect in rects):
        warnings.append(f"the rectangles tremble by some {trembling:.0f} pixels a frame: try importing with --smooth 3")
    if oblong:
        warnings.append(f"{_some(oblong)}: the rectangle is far from square, and so is what the network gets")
    edge = [i for i, rect in enumerate(rects) if rect.x1 == 0 or rect.y1 == 0 or rect.x2 == width or rect.y2 == height]
    if edge:
        warnings.append(f"{_some(edge)}: the rectangle touches the picture's edge; it may have been cut there")
    return warnings


def largest_step(rects: Sequence[Rect]) -> float:
    """The largest distance that the rectangles' centre moves from one frame to the next, in pixels."""
    return max((_distance(one, two) for one, two in itertools.pairwise(rects)), default=0.0)


def _sudden(one: Rect, two: Rect) -> str | None:
    moved = _distance(one, two)
    if moved > _JUMP * max(one.width, two.width):
        return f"jumps by {moved:.0f} pixels"
    grown = max(one.width / two.width, two.width / one.width, one.height / two.height, two.height / one.height)
    if grown > 1 + _RESIZE:
        return f"changes its size from {one.width}x{one.height} to {two.width}x{two.height}"
    return None


def _typical_tremble(rects: Sequence[Rect]) -> float:
    """The median distance of each rectangle's centre from the continuation of the two before, in pixels; 0 of a few frames."""
    if len(rects) < _FEW_FRAMES:
        return 0.0
    centres = np.array([((rect.x1 + rect.x2) / 2, (rect.y1 + rect.y2) / 2) for rect in rects])
    return float(np.median(np.hypot(*np.diff(centres, n=2, axis=0).T)))


def _distance(one: Rect, two: Rect) -> float:
    across = (one.x1 + one.x2 - two.x1 - two.x2) / 2
    down = (one.y1 + one.y2 - two.y1 - two.y2) / 2
    return float((across * across + down * down) ** 0.5)


def _some(frames: Sequence[int]) -> str:
    shown = ", ".join(map(str, frames[:5]))
    return f"{len(frames)} frame{'s' if len(frames) > 1 else ''} ({shown}{', ...' if len(frames) > 5 else ''})"
