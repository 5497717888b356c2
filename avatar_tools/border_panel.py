"""The border of the pasted mouth, enlarged: strips along its four sides show a visible edge."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import cv2
import numpy as np

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import CROP_SIZE, MARGIN, Paste, Picture, Rect
from avatar_tools.sheet_style import (
    BACKGROUND,
    BAD,
    BOLD,
    EMPTY,
    FAINT,
    FRAMES_WIDTH,
    GAP,
    INNER_COLOUR,
    LABEL_HEIGHT,
    PAGE_MARGIN,
    RECT_COLOUR,
    SIDE_WIDTH,
    TEXT,
    write,
)

_WIDTH = FRAMES_WIDTH + PAGE_MARGIN + SIDE_WIDTH
_HEADING_HEIGHT = 66
_STRIP_HEIGHT, _BETWEEN_STRIPS = 100, 4
_MIN_SCALE, _MAX_SCALE = 4, 10  # enlargement of a strip
_MARK = 12  # width of the marks at a strip's ends
_LABEL_WIDTH = 70
_LINE_CHARACTERS = 170  # of size 16
_SURROUNDINGS = 0.12  # shown around the rectangle, as a part of its side
_AMPLIFIED = 8


@dataclass(frozen=True, slots=True)
class Composite:
    """A frame of the avatar with a mouth pasted in by the code that serves: `picture` is [height, width, 3], BGR."""

    frame: int
    picture: Picture


def border_panel(avatar: Avatar, composite: Composite | str) -> Picture:
    """Draws a part of the contact sheet, or instead of a composite the reason why there is none.

    Raises BrokenAvatar for an unreadable frame.
    """
    if isinstance(composite, str):
        return _refusal(composite)
    before, after, rect = avatar.read_frame(composite.frame), composite.picture, avatar.rects[composite.frame]
    side_height = LABEL_HEIGHT + 2 * _STRIP_HEIGHT + _BETWEEN_STRIPS + GAP
    height = _HEADING_HEIGHT + max(4 * side_height, 2 * (SIDE_WIDTH + LABEL_HEIGHT))
    panel: Picture = np.full((height, _WIDTH, 3), BACKGROUND, np.uint8)
    _write_heading(panel, f"The mouth's border in frame {composite.frame}, paste {avatar.paste.value}")
    legend = (
        "each side from corner to corner, the mouth turned down: it begins at the blue marks, the rectangle at the green ones"
    )
    write(panel, legend, (0, 50), FAINT, 15)
    for number, name in enumerate(("upper", "lower", "left", "right")):
        _draw_side(panel, _HEADING_HEIGHT + number * side_height, name, before, after, rect, avatar.paste)
    _draw_regions(panel, before, after, rect)
    return panel


def _refusal(reason: str) -> Picture:
    lines = textwrap.wrap(reason, _LINE_CHARACTERS) or [""]
    panel: Picture = np.full((52 + 24 * len(lines), _WIDTH, 3), BACKGROUND, np.uint8)
    _write_heading(panel, "The mouth's border cannot be shown")
    for number, line in enumerate(lines):
        write(panel, line, (0, 52 + 24 * number), BAD, 16)
    return panel


def _write_heading(panel: Picture, text: str) -> None:
    write(panel, text, (0, 24), TEXT, 22, weight=BOLD)


def _draw_side(panel: Picture, y: int, name: str, before: Picture, after: Picture, rect: Rect, paste: Paste) -> None:
    """Draws one side: strips along the line where the network's pixels begin, with these below."""
    (before, top), (after, _) = (_with_side_on_top(name, picture, rect) for picture in (before, after))
    inset = 0 if paste is Paste.DIRECT else round(top.height * MARGIN / CROP_SIZE)  # from the rectangle's border to that line
    room = FRAMES_WIDTH - 2 * _MARK - _LABEL_WIDTH
    scale = min(max(room // (top.width + 8), _MIN_SCALE), _MAX_SCALE)
    depth, length = _STRIP_HEIGHT // 2 // scale, min(top.width + 8, room // scale)
    middle, start = (top.x1 + top.x2) // 2, top.y1 + inset
    before, after = (_strip(picture, middle, start, depth, length) for picture in (before, after))
    write(panel, f"{name} side", (0, y + 19), TEXT, 15, weight=BOLD)
    steps = f"step across the line: pasted {_step(after):.1f} of 255, as it is {_step(before):.1f}"
    note = steps if top.y1 else "the picture's own edge"  # where nothing can be seen
    write(panel, f"{scale} times enlarged;  {note}", (100, y + 19), FAINT, 15)
    y += LABEL_HEIGHT
    for strip, label in ((before, "as it is"), (after, "pasted")):
        large = cv2.resize(strip, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        height, width = large.shape[:2]
        panel[y : y + height, _MARK : _MARK + width] = large
        line = y + height // 2
        marks = [(line, INNER_COLOUR)]
        if inset * scale < height // 2:
            marks.insert(0, (line - inset * scale, RECT_COLOUR))
        for at, colour in marks:
            for x in (0, _MARK + width + 2):
                panel[at - 1 : at + 1, x : x + _MARK - 2] = colour
        write(panel, label, (2 * _MARK + width + 4, line + 5), FAINT, 14)
        y += height + _BETWEEN_STRIPS


def _with_side_on_top(name: str, picture: Picture, rect: Rect) -> tuple[Picture, Rect]:
    """The picture turned or mirrored so that a side of the rectangle is the upper one, and the rectangle in it."""
    if name in {"left", "right"}:
        picture, rect = picture.swapaxes(0, 1), Rect(rect.y1, rect.x1, rect.y2, rect.x2)
    if name in {"lower", "right"}:
        height = picture.shape[0]
        picture, rect = picture[::-1], Rect(rect.x1, height - rect.y2, rect.x2, height - rect.y1)
    return picture, rect


def _strip(picture: Picture, middle: int, line: int, depth: int, length: int) -> Picture:
    """[2 x depth, length, 3] around a point of a horizontal line; EMPTY outside the picture."""
    reach = max(depth, length)
    padded = cv2.copyMakeBorder(picture, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=EMPTY)
    top, left = line - depth + reach, middle - length // 2 + reach
    return np.ascontiguousarray(padded[top : top + 2 * depth, left : left + length], np.uint8)


def _step(strip: Picture) -> float:
    """The mean difference of the pixels before and behind the line; resizing mixes the two that touch it."""
    middle = strip.shape[0] // 2
    return float(np.abs(strip[middle + 1].astype(np.int16) - strip[middle - 2]).mean())


def _draw_regions(panel: Picture, before: Picture, after: Picture, rect: Rect) -> None:
    """Draws the whole region with the mouth, and its difference from before pasting."""
    margin = round(_SURROUNDINGS * max(rect.width, rect.height)) + 1
    around = Rect(rect.x1 - margin, rect.y1 - margin, rect.x2 + margin, rect.y2 + margin)
    around = around.clamped(before.shape[1], before.shape[0])
    part = np.s_[around.y1 : around.y2, around.x1 : around.x2]
    changed = cv2.convertScaleAbs(cv2.absdiff(after[part], before[part]), alpha=_AMPLIFIED)
    y = _HEADING_HEIGHT
    for picture, label in ((after[part], "with the mouth pasted in"), (changed, f"changed by pasting, {_AMPLIFIED} times")):
        scale = SIDE_WIDTH / max(picture.shape[:2])
        large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)[:SIDE_WIDTH, :SIDE_WIDTH]
        height, width = large.shape[:2]
        panel[y : y + height, _WIDTH - SIDE_WIDTH : _WIDTH - SIDE_WIDTH + width] = large
        write(panel, label, (_WIDTH - SIDE_WIDTH, y + height + 19), FAINT, 14)
        y += SIDE_WIDTH + LABEL_HEIGHT
