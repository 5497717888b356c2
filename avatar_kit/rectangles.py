"""Reads and writes `crop_rects.json`: one rectangle a picture, as an array or, in older packages, an object keyed by number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avatar_kit.errors import shortened, shown
from avatar_kit.geometry import Rect
from avatar_kit.limits import max_rects_bytes
from avatar_kit.numbering import numbering_problems
from avatar_kit.safe_files import FileProblem, read_bounded


def read_rects(path: Path, *, frame_count: int) -> list[Rect]:
    """Reads the rectangles in order: whole numbers, not yet compared with any picture. Raises FileProblem.

    `frame_count`: number of pictures; a file too large for as many rectangles is refused unread.
    """
    data = read_bounded(path, max_rects_bytes(frame_count))
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise FileProblem("is not JSON, or is truncated") from None
    if isinstance(content, dict):
        content = _in_order(content)
    if not isinstance(content, list):
        raise FileProblem("is neither an array of [x1, y1, x2, y2] nor an object keyed by frame number")
    rects = [_rect(item) for item in content]
    bad = [
        f"frame {index}: {shown(content[index])} is not four whole numbers" for index, rect in enumerate(rects) if rect is None
    ]
    if bad:
        raise FileProblem(shortened(bad))
    return [rect for rect in rects if rect is not None]


def rects_text(rects: Sequence[Rect]) -> str:
    """Returns the text of a `crop_rects.json`, one line a picture."""
    return "[\n" + ",\n".join(f"[{rect.x1}, {rect.y1}, {rect.x2}, {rect.y2}]" for rect in rects) + "\n]\n"


def misplaced(rects: Sequence[Rect], width: int, height: int) -> list[str]:
    """Returns one sentence for each of the first rectangles that are not inside a picture of that size."""
    problems = ((index, rect.problem(width, height)) for index, rect in enumerate(rects))
    return shortened([f"frame {index}: {problem}" for index, problem in problems if problem])


def _in_order(by_number: dict[str, Any]) -> list[Any]:
    """Returns the values of an object keyed by number. Each is a rectangle or an object with one as `rect`."""
    numbers = {key: int(key) for key in by_number if key.isdecimal() and key.isascii() and len(key) < 10}
    if len(numbers) < len(by_number):
        other = next(key for key in by_number if key not in numbers)
        raise FileProblem(f"has the key {shown(other)}, which is not a frame number")
    problems = numbering_problems(list(numbers.values()))
    if problems:
        raise FileProblem(problems)
    ordered = sorted(numbers, key=numbers.__getitem__)
    return [value.get("rect") if isinstance(value := by_number[key], dict) else value for key in ordered]


def _rect(item: object) -> Rect | None:
    """Parses four whole numbers, 12.0 included; None for anything else."""
    if not isinstance(item, list) or len(item) != 4:
        return None
    numbers = [int(value) for value in item if _is_whole(value)]
    return Rect(*numbers) if len(numbers) == 4 else None


def _is_whole(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
