"""`crop_rects.json`: one crop rectangle a frame, as an array or, in older packages, as an object keyed by frame number."""

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
    """The rectangles in frame order, whole numbers but not yet compared with any picture. Raises FileProblem.

    `frame_count`: how many frames there are; a file larger than so many rectangles can be is not read.
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
    """The text of a `crop_rects.json`, one line a frame."""
    return "[\n" + ",\n".join(f"[{rect.x1}, {rect.y1}, {rect.x2}, {rect.y2}]" for rect in rects) + "\n]\n"


def misplaced(rects: Sequence[Rect], width: int, height: int) -> list[str]:
    """One sentence for each of the first rectangles that do not lie in a picture of that size."""
    problems = ((index, rect.problem(width, height)) for index, rect in enumerate(rects))
    return shortened([f"frame {index}: {problem}" for index, problem in problems if problem])


def _in_order(by_number: dict[str, Any]) -> list[Any]:
    """The values of an object keyed by frame number, each either a rectangle or an object that has one as `rect`."""
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
    """None for anything but four whole numbers; 12.0 is one."""
    if not isinstance(item, list) or len(item) != 4:
        return None
    numbers = [int(value) for value in item if _is_whole(value)]
    return Rect(*numbers) if len(numbers) == 4 else None


def _is_whole(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
