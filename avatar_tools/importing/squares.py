"""Prepares rectangles for serving: closes gaps, smooths them when asked for, and keeps them inside the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import Rect
from avatar_kit.safe_files import FileProblem
from avatar_tools.importing.problems import ImportRefused, spans

MAX_GAP = 5  # frames, a fifth of a second; in a longer gap the head may have moved anywhere

_FAR = 100_000  # pixels: more than ten times the largest picture


def without_gaps(squares: Sequence[Rect | None], needed: range | None = None) -> tuple[list[Rect | None], list[str]]:
    """The rectangles, without None among those that are needed, by default all; and a sentence for each gap that was closed.

    In a gap of at most `MAX_GAP` frames the left and upper edge and the two sides go evenly from one neighbour's to the other's,
    truncated towards zero like all coordinates. Raises FileProblem naming the frames of longer gaps, and of gaps at either end,
    which have one neighbour only, and of rectangles that cannot belong to any picture.
    """
    needed = range(len(squares)) if needed is None else needed
    _check_reach([square if index in needed else None for index, square in enumerate(squares)])
    filled = list(squares)
    notes: list[str] = []
    problems: list[str] = []
    for low, high in _gaps(squares):
        if high <= needed.start or low >= needed.stop:
            continue
        named = spans(range(low, high))
        one = filled[low - 1] if low else None
        other = squares[high] if high < len(squares) else None
        if one is None or other is None:
            problems.append(f"has no landmarks for {named}, at the {'end' if low else 'beginning'} of the clip: nothing to go by")
        elif high - low > MAX_GAP:
            problems.append(f"has no landmarks for {named}: at most {MAX_GAP} frames in a row can be interpolated")
        else:
            for index in range(low, high):
                filled[index] = _between(one, other, (index - low + 1) / (high - low + 1))
            notes.append(f"{named}: no landmarks, interpolated from the frames around")
    if problems:
        raise FileProblem(problems)
    return filled, notes


def smoothed(rects: Sequence[Rect], frames: int) -> list[Rect]:
    """Each rectangle's edges and sides averaged over `frames` (odd) frames around it, rounded to whole pixels.

    A plain mean, centred, so that the rectangle does not lag behind the head; towards the ends of the clip it takes as many
    frames before as after. A head at rest keeps its rectangles exactly. Raises ImportRefused for an even or too small number.
    """
    check_smoothing(frames)
    boxes = np.array([(rect.x1, rect.y1, rect.width, rect.height) for rect in rects], np.float64)
    sums = np.concatenate([np.zeros((1, 4)), boxes.cumsum(0)])
    index = np.arange(len(rects))
    reach = np.minimum(frames // 2, np.minimum(index, len(rects) - 1 - index))
    means = (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)[:, None]
    return [_box(row) for row in np.floor(means + 0.5)]


def check_smoothing(frames: int) -> None:
    """Raises ImportRefused for a number of frames that cannot be averaged over."""
    if frames < 3 or frames % 2 == 0:
        raise ImportRefused(f"smoothing over {frames} frames: expected an odd number from 3, as many before a frame as after it")


def check_placed(rects: Sequence[Rect], width: int, height: int) -> None:
    """Raises FileProblem, naming the frames, for rectangles that are empty, or outside a picture of that size."""
    _check_reach(rects)
    empty = [index for index, rect in enumerate(rects) if rect.width <= 0 or rect.height <= 0]
    if empty:
        raise FileProblem(f": the rectangle is empty in {spans(empty)}, the first being {_shown(rects[empty[0]])}")
    clamped = [rect.clamped(width, height) for rect in rects]
    lost = [index for index, rect in enumerate(clamped) if rect.width <= 0 or rect.height <= 0]
    if lost:
        first = _shown(rects[lost[0]])
        raise FileProblem(f": the rectangle is not in the {width}x{height} picture in {spans(lost)}, the first being {first}")


def kept_inside(rects: Sequence[Rect], width: int, height: int) -> tuple[list[Rect], list[str]]:
    """The rectangles clamped at the picture's edges, and a warning that names the changed frames.

    They have been seen by `check_placed`; means of such have a part in the picture too.
    """
    clamped = [rect.clamped(width, height) for rect in rects]
    cut = [index for index, (before, after) in enumerate(zip(rects, clamped, strict=True)) if before != after]
    if not cut:
        return clamped, []
    return clamped, [f"{spans(cut)}: the rectangle ran over the picture's edge and was cut there"]


def _check_reach(squares: Sequence[Rect | None]) -> None:
    """Refuses the huge numbers that files may hold, before any arithmetic. Raises FileProblem."""
    far = [
        index
        for index, rect in enumerate(squares)
        if rect is not None and max(map(abs, (rect.x1, rect.y1, rect.x2, rect.y2))) > _FAR
    ]
    if far:
        raise FileProblem(f": the rectangle reaches further than any picture in {spans(far)}")


def _gaps(squares: Sequence[Rect | None]) -> list[tuple[int, int]]:
    """The runs of None, as half-open ranges."""
    missing = np.array([False, *(square is None for square in squares), False])
    edges: NDArray[np.int64] = np.flatnonzero(missing[1:] != missing[:-1])
    return [(int(low), int(high)) for low, high in edges.reshape(-1, 2)]


def _between(one: Rect, other: Rect, part: float) -> Rect:
    first = np.array((one.x1, one.y1, one.width, one.height), np.float64)
    last = np.array((other.x1, other.y1, other.width, other.height), np.float64)
    return _box(first + (last - first) * part)


def _box(values: NDArray[np.float64]) -> Rect:
    left, top, width, height = (int(value) for value in values)
    return Rect(left, top, left + width, top + height)


def _shown(rect: Rect) -> str:
    return f"[{rect.x1}, {rect.y1}, {rect.x2}, {rect.y2}]"
