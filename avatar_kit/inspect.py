"""An avatar on one picture and on one page, for the eyes of a person."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.facts import avatar_facts
from avatar_kit.geometry import CROP_SIZE, MARGIN, MOUTH_SIZE, Picture, Rect, crop_328, inner
from avatar_kit.verify import Report

_Colour = tuple[int, int, int]  # BGR
_PAPER: _Colour = (30, 27, 25)
_EMPTY: _Colour = (48, 44, 41)
_TEXT: _Colour = (240, 238, 236)
_FAINT: _Colour = (168, 160, 154)
_RECT_COLOUR: _Colour = (120, 230, 90)
_INNER_COLOUR: _Colour = (255, 200, 90)
_MASK_COLOUR: _Colour = (60, 170, 255)
_BAD: _Colour = (80, 80, 235)

_MARGIN, _GAP = 28, 14
_FILM_WIDTH, _SIDE_WIDTH = 1056, 480  # the frames on the left, the enlarged crop on the right
_HEADING_HEIGHT, _LABEL_HEIGHT = 92, 30
_NORMAL, _BOLD = 400, 650  # weights of the typeface


def contact_sheet(avatar: Avatar) -> Picture:
    """A picture of the whole avatar, about 1600 pixels wide, BGR.

    Frames from the whole clip with their rectangles, and one crop enlarged with the region that the network replaces and the
    mask. A frame that can not be read is shown as such.
    """
    grid = _Grid.of(avatar)
    side_height = _SIDE_WIDTH + 3 * _LABEL_HEIGHT + (_SIDE_WIDTH - _GAP) // 2 + _LABEL_HEIGHT
    height = _MARGIN + _HEADING_HEIGHT + max(grid.height, side_height) + _MARGIN
    width = _MARGIN + _FILM_WIDTH + _MARGIN + _SIDE_WIDTH + _MARGIN
    sheet: Picture = np.full((height, width, 3), _PAPER, np.uint8)
    _draw_heading(sheet, avatar)
    for place, index in enumerate(grid.frames):
        x, y = grid.corner(place)
        _draw_frame(sheet, avatar, index, (x, y), grid)
    _draw_side(sheet, avatar, _MARGIN + _FILM_WIDTH + _MARGIN, _MARGIN + _HEADING_HEIGHT)
    return sheet


def summary(avatar: Avatar, report: Report | None = None) -> str:
    """One page of text: the facts, and what verifying found when its report is given."""
    facts = {**avatar_facts(avatar), **(report.facts if report else {})}
    width = max(map(len, facts))
    lines = [f"avatar {avatar.id}", *(f"  {label:{width}}  {value}" for label, value in facts.items())]
    if report:
        for title, found in (("problems", report.problems), ("warnings", report.warnings)):
            lines.append(f"{title}: {len(found) or 'none'}")
            lines += [f"  - {sentence}" for sentence in found]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where the frames lie on the sheet."""

    columns: int
    picture_width: int
    picture_height: int
    frames: tuple[int, ...]

    @classmethod
    def of(cls, avatar: Avatar) -> _Grid:
        """Fewer columns for wide pictures than for tall ones, so that either fills the sheet."""
        aspect = avatar.width / avatar.height
        columns, rows = (3, 4) if aspect > 1.2 else (4, 3) if aspect > 0.8 else (5, 2)
        count = min(columns * rows, avatar.frame_count)
        frames = tuple(index * avatar.frame_count // count for index in range(count))
        width = (_FILM_WIDTH - (columns - 1) * _GAP) // columns
        return cls(columns, width, min(max(1, round(width / aspect)), 4 * width), frames)

    @property
    def height(self) -> int:
        rows = -(-len(self.frames) // self.columns)
        return rows * (self.picture_height + _LABEL_HEIGHT)

    def corner(self, place: int) -> tuple[int, int]:
        row, column = divmod(place, self.columns)
        return (
            _MARGIN + column * (self.picture_width + _GAP),
            _MARGIN + _HEADING_HEIGHT + row * (self.picture_height + _LABEL_HEIGHT),
        )


def _draw_heading(sheet: Picture, avatar: Avatar) -> None:
    _write(sheet, avatar.id, (_MARGIN, _MARGIN + 34), _TEXT, 34, weight=_BOLD)
    seconds = avatar.frame_count / avatar.fps
    size = f"{avatar.width}x{avatar.height}"
    line = f"{size}, {avatar.frame_count} frames, {seconds:.1f} s, loop {avatar.loop.value}, paste {avatar.paste.value}"
    _write(sheet, line, (_MARGIN, _MARGIN + 66), _FAINT, 17)


def _draw_frame(sheet: Picture, avatar: Avatar, index: int, corner: tuple[int, int], grid: _Grid) -> None:
    x, y = corner
    box = sheet[y : y + grid.picture_height, x : x + grid.picture_width]
    rect = avatar.rects[index]
    try:
        picture = avatar.read_frame(index)
    except BrokenAvatar:
        box[:] = _EMPTY
        _write(sheet, "can not be read", (x + 14, y + 30), _BAD, 16, weight=_BOLD)
    else:
        box[:] = cv2.resize(picture, (grid.picture_width, grid.picture_height), interpolation=cv2.INTER_AREA)
        scale = grid.picture_width / avatar.width
        _outline(box, Rect(*(round(edge * scale) for edge in (rect.x1, rect.y1, rect.x2, rect.y2))), _RECT_COLOUR)
    label = f"{index}"
    _write(sheet, label, (x, y + grid.picture_height + 19), _TEXT, 14, weight=_BOLD)
    place = f"{rect.width}x{rect.height} at {rect.x1}, {rect.y1}"
    _write(sheet, place, (x + 14 + 9 * len(label), y + grid.picture_height + 19), _FAINT, 14)


def _draw_side(sheet: Picture, avatar: Avatar, x: int, y: int) -> None:
    """The crop of the middle frame, enlarged and with its regions, and what the network is given of it."""
    index = avatar.frame_count // 2
    try:
        crop = crop_328(avatar.read_frame(index), avatar.rects[index])
    except BrokenAvatar:
        sheet[y : y + _SIDE_WIDTH, x : x + _SIDE_WIDTH] = _EMPTY
        _write(sheet, f"frame {index} can not be read", (x + 14, y + 30), _BAD, 16, weight=_BOLD)
        return
    scale = _SIDE_WIDTH / CROP_SIZE
    large = sheet[y : y + _SIDE_WIDTH, x : x + _SIDE_WIDTH]
    large[:] = cv2.resize(crop, (_SIDE_WIDTH, _SIDE_WIDTH), interpolation=cv2.INTER_CUBIC)
    mask = avatar.mask
    left, top = MARGIN + mask.x, MARGIN + mask.y
    regions = (
        (Rect(0, 0, CROP_SIZE, CROP_SIZE), _RECT_COLOUR, f"the rectangle of frame {index}, as a crop of {CROP_SIZE}x{CROP_SIZE}"),
        (Rect(MARGIN, MARGIN, MARGIN + MOUTH_SIZE, MARGIN + MOUTH_SIZE), _INNER_COLOUR, "what the network sees and replaces"),
        (Rect(left, top, left + mask.width, top + mask.height), _MASK_COLOUR, "what the mask hides from it"),
    )
    line = y + _SIDE_WIDTH
    for rect, colour, legend in regions:
        _outline(large, Rect(*(round(edge * scale) for edge in (rect.x1, rect.y1, rect.x2, rect.y2))), colour)
        line += _LABEL_HEIGHT
        sheet[line - 17 : line - 5, x : x + 12] = colour
        _write(sheet, legend, (x + 22, line - 6), _TEXT, 15)
    _draw_inputs(sheet, avatar, inner(crop), x, line + _GAP)


def _draw_inputs(sheet: Picture, avatar: Avatar, seen: Picture, x: int, y: int) -> None:
    size = (_SIDE_WIDTH - _GAP) // 2
    masked = (seen * avatar.mask.kept()[..., None]).astype(np.uint8)
    for picture, label, left in ((seen, "the network's first picture", x), (masked, "its second, masked", x + size + _GAP)):
        sheet[y : y + size, left : left + size] = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        _write(sheet, label, (left, y + size + 19), _FAINT, 14)


def _outline(picture: Picture, rect: Rect, colour: _Colour) -> None:
    cv2.rectangle(picture, (rect.x1, rect.y1), (rect.x2 - 1, rect.y2 - 1), colour, 2, cv2.LINE_AA)


def _write(picture: Picture, text: str, at: tuple[int, int], colour: _Colour, size: int, *, weight: int = _NORMAL) -> None:
    """Text with its baseline at `at`, in the typeface that OpenCV carries."""
    cv2.putText(picture, text, at, colour, cv2.FontFace("sans"), size, weight)
