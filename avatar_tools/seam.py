"""The border of the pasted mouth, enlarged: whether a square can be seen shows in strips along its four sides."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import CROP_SIZE, MARGIN, Paste, Picture, Rect
from avatar_tools.paper import (
    BAD,
    BOLD,
    EMPTY,
    FAINT,
    FILM_WIDTH,
    GAP,
    INNER_COLOUR,
    LABEL_HEIGHT,
    PAGE_MARGIN,
    PAPER,
    RECT_COLOUR,
    SIDE_WIDTH,
    TEXT,
    write,
)

_WIDTH = FILM_WIDTH + PAGE_MARGIN + SIDE_WIDTH
_HEADING_HEIGHT = 66
_STRIP_HEIGHT, _BETWEEN_STRIPS = 100, 4
_SCALES = (4, 10)  # the least and the most that a strip is enlarged
_MARK = 12  # width of the marks at a strip's ends
_LABEL_WIDTH = 70
_LEVEL = frozenset({"upper", "lower"})  # sides that run from left to right
_REASON_LETTERS = 170  # of size 16 on a line
_SURROUNDINGS = 0.12  # so much of the rectangle's side is shown around it
_ENHANCED = 8


@dataclass(frozen=True, slots=True)
class Composite:
    """A frame of the avatar with a mouth pasted in by the code that serves: `picture` is [height, width, 3], BGR."""

    frame: int
    picture: Picture


def seam_panel(avatar: Avatar, composite: Composite | str) -> Picture:
    """A part of the contact sheet; in place of a composite, why there is none. Raises BrokenAvatar for an unreadable frame."""
    if isinstance(composite, str):
        return _refusal(composite)
    before, after, rect = avatar.read_frame(composite.frame), composite.picture, avatar.rects[composite.frame]
    sides = [_Side.of(name, before, after, rect, avatar.paste) for name in ("upper", "lower", "left", "right")]
    side_height = LABEL_HEIGHT + 2 * _STRIP_HEIGHT + _BETWEEN_STRIPS + GAP
    height = _HEADING_HEIGHT + max(4 * side_height, 2 * (SIDE_WIDTH + LABEL_HEIGHT))
    panel: Picture = np.full((height, _WIDTH, 3), PAPER, np.uint8)
    _head(panel, f"The seam in frame {composite.frame}, paste {avatar.paste.value}")
    legend = (
        "each side from corner to corner, the mouth turned down: it begins at the blue marks, the rectangle at the green ones"
    )
    write(panel, legend, (0, 50), FAINT, 15)
    for place, side in enumerate(sides):
        side.draw(panel, _HEADING_HEIGHT + place * side_height)
    _draw_regions(panel, before, after, rect)
    return panel


def _refusal(reason: str) -> Picture:
    lines = textwrap.wrap(reason, _REASON_LETTERS) or [""]
    panel: Picture = np.full((52 + 24 * len(lines), _WIDTH, 3), PAPER, np.uint8)
    _head(panel, "The seam can not be shown")
    for number, line in enumerate(lines):
        write(panel, line, (0, 52 + 24 * number), BAD, 16)
    return panel


def _head(panel: Picture, text: str) -> None:
    write(panel, text, (0, 24), TEXT, 22, weight=BOLD)


@dataclass(frozen=True, slots=True)
class _Side:
    """One side: strips [2 x depth, length, 3] along the line where what the network made begins, turned so that it lies below."""

    name: str
    scale: int
    before: Picture
    after: Picture
    inset: int
    """Pixels from the rectangle's border to that line."""
    is_at_edge: bool
    """Whether it is the picture's own edge, where nothing can be seen."""

    @classmethod
    def of(cls, name: str, before: Picture, after: Picture, rect: Rect, paste: Paste) -> _Side:
        across, along = (rect.height, rect.width) if name in _LEVEL else (rect.width, rect.height)
        least, most = _SCALES
        room = FILM_WIDTH - 2 * _MARK - _LABEL_WIDTH
        scale = min(max(room // (along + 8), least), most)
        inset = 0 if paste is Paste.DIRECT else round(across * MARGIN / CROP_SIZE)
        depth, shown = _STRIP_HEIGHT // 2 // scale, min(along + 8, room // scale)
        one, other = (_strip(picture, rect, name, inset, depth, shown) for picture in (before, after))
        height, width = before.shape[:2]
        outside = {"upper": rect.y1, "lower": height - rect.y2, "left": rect.x1, "right": width - rect.x2}[name]
        return cls(name, scale, one, other, inset, is_at_edge=outside == 0)

    def draw(self, panel: Picture, y: int) -> None:
        write(panel, f"{self.name} side", (0, y + 19), TEXT, 15, weight=BOLD)
        steps = f"step across the line: pasted {_step(self.after):.1f} of 255, as it is {_step(self.before):.1f}"
        told = "the picture's own edge" if self.is_at_edge else steps
        write(panel, f"{self.scale} times enlarged;  {told}", (100, y + 19), FAINT, 15)
        y += LABEL_HEIGHT
        for strip, label in ((self.before, "as it is"), (self.after, "pasted")):
            large = cv2.resize(strip, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_NEAREST)
            height, width = large.shape[:2]
            panel[y : y + height, _MARK : _MARK + width] = large
            line = y + height // 2
            marks = [(line, INNER_COLOUR)]
            if self.inset * self.scale < height // 2:
                marks.insert(0, (line - self.inset * self.scale, RECT_COLOUR))
            for at, colour in marks:
                for x in (0, _MARK + width + 2):
                    panel[at - 1 : at + 1, x : x + _MARK - 2] = colour
            write(panel, label, (2 * _MARK + width + 4, line + 5), FAINT, 14)
            y += height + _BETWEEN_STRIPS


def _strip(picture: Picture, rect: Rect, name: str, inset: int, depth: int, shown: int) -> Picture:
    """[2 x depth, shown, 3] around the middle of a side's line; what lies outside the picture is empty."""
    reach = max(depth, shown)
    padded = cv2.copyMakeBorder(picture, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=EMPTY)
    middle = (rect.x1 + rect.x2) // 2 if name in _LEVEL else (rect.y1 + rect.y2) // 2
    start = middle - shown // 2 + reach
    lines = {"upper": rect.y1 + inset, "lower": rect.y2 - inset, "left": rect.x1 + inset, "right": rect.x2 - inset}
    line = lines[name] + reach
    if name in _LEVEL:
        strip = padded[line - depth : line + depth, start : start + shown]
    else:
        strip = padded[start : start + shown, line - depth : line + depth].swapaxes(0, 1)
    return np.ascontiguousarray(strip if name in {"upper", "left"} else strip[::-1], np.uint8)


def _step(strip: Picture) -> float:
    """The mean difference of the pixels before and behind the line; resizing mixes the two that touch it."""
    middle = strip.shape[0] // 2
    return float(np.abs(strip[middle + 1].astype(np.int16) - strip[middle - 2]).mean())


def _draw_regions(panel: Picture, before: Picture, after: Picture, rect: Rect) -> None:
    """The whole region with the mouth, and what pasting has changed in it."""
    margin = round(_SURROUNDINGS * max(rect.width, rect.height)) + 1
    around = Rect(rect.x1 - margin, rect.y1 - margin, rect.x2 + margin, rect.y2 + margin)
    around = around.clamped(before.shape[1], before.shape[0])
    part = np.s_[around.y1 : around.y2, around.x1 : around.x2]
    changed: NDArray[np.int16] = np.abs(after[part].astype(np.int16) - before[part]) * _ENHANCED
    shown = (
        (after[part], "with the mouth pasted in"),
        (np.clip(changed, 0, 255).astype(np.uint8), f"what has changed, {_ENHANCED} times"),
    )
    y = _HEADING_HEIGHT
    for picture, label in shown:
        scale = SIDE_WIDTH / max(picture.shape[:2])
        large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)[:SIDE_WIDTH, :SIDE_WIDTH]
        height, width = large.shape[:2]
        panel[y : y + height, _WIDTH - SIDE_WIDTH : _WIDTH - SIDE_WIDTH + width] = large
        write(panel, label, (_WIDTH - SIDE_WIDTH, y + height + 19), FAINT, 14)
        y += SIDE_WIDTH + LABEL_HEIGHT
