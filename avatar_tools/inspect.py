"""An avatar on one picture and on one page of text, for people."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import CROP_SIZE, MARGIN, MOUTH_SIZE, Picture, Rect, crop_328, inner
from avatar_kit.reference_frame import Reference
from avatar_tools.border_panel import Composite, border_panel
from avatar_tools.facts import avatar_facts
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
    MASK_COLOUR,
    PAGE_MARGIN,
    RECT_COLOUR,
    SIDE_WIDTH,
    TEXT,
    outline,
    write,
)
from avatar_tools.verify import Report

__all__ = ["Composite", "contact_sheet", "summary"]

_HEADING_HEIGHT = 92


def contact_sheet(avatar: Avatar, composite: Composite | str) -> Picture:
    """Draws the whole avatar on a picture about 1600 pixels wide, BGR.

    It has frames from the whole clip with their rectangles, and one crop enlarged, with the region that the network replaces and
    the mask. A frame that cannot be read is marked. Below is the mouth's border in `composite`, or the reason why there is none.
    """
    grid = _Grid.of(avatar)
    side_height = SIDE_WIDTH + 3 * LABEL_HEIGHT + (SIDE_WIDTH - GAP) // 2 + LABEL_HEIGHT
    border = border_panel(avatar, composite)
    border_top = PAGE_MARGIN + _HEADING_HEIGHT + max(grid.height, side_height) + PAGE_MARGIN
    height = border_top + border.shape[0] + PAGE_MARGIN
    width = PAGE_MARGIN + FRAMES_WIDTH + PAGE_MARGIN + SIDE_WIDTH + PAGE_MARGIN
    sheet: Picture = np.full((height, width, 3), BACKGROUND, np.uint8)
    _draw_heading(sheet, avatar)
    for place, index in enumerate(grid.frames):
        _draw_frame(sheet, avatar, index, grid.corner(place), grid)
    _draw_side(sheet, avatar, PAGE_MARGIN + FRAMES_WIDTH + PAGE_MARGIN, PAGE_MARGIN + _HEADING_HEIGHT)
    sheet[border_top : border_top + border.shape[0], PAGE_MARGIN : PAGE_MARGIN + border.shape[1]] = border
    return sheet


def summary(avatar: Avatar, report: Report | None = None) -> str:
    """One page of text: the facts, and the findings of a verification when its report is given."""
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
    """The places of the frames on the sheet."""

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
        width = (FRAMES_WIDTH - (columns - 1) * GAP) // columns
        return cls(columns, width, min(max(1, round(width / aspect)), 4 * width), frames)

    @property
    def height(self) -> int:
        rows = -(-len(self.frames) // self.columns)
        return rows * (self.picture_height + LABEL_HEIGHT)

    def corner(self, place: int) -> tuple[int, int]:
        row, column = divmod(place, self.columns)
        return (
            PAGE_MARGIN + column * (self.picture_width + GAP),
            PAGE_MARGIN + _HEADING_HEIGHT + row * (self.picture_height + LABEL_HEIGHT),
        )


def _draw_heading(sheet: Picture, avatar: Avatar) -> None:
    write(sheet, avatar.id, (PAGE_MARGIN, PAGE_MARGIN + 34), TEXT, 34, weight=BOLD)
    seconds = avatar.frame_count / avatar.fps
    size = f"{avatar.width}x{avatar.height}"
    line = f"{size}, {avatar.frame_count} frames, {seconds:.1f} s, loop {avatar.loop.value}, paste {avatar.paste.value}"
    line += f", reference {Reference(avatar.reference_frame)}"
    if avatar.idle:
        line += f", idle {avatar.idle.first} to {avatar.idle.last}"
    line += f", idle mouth {avatar.idle_mouth.value}"
    write(sheet, line, (PAGE_MARGIN, PAGE_MARGIN + 66), FAINT, 17)


def _draw_frame(sheet: Picture, avatar: Avatar, index: int, corner: tuple[int, int], grid: _Grid) -> None:
    x, y = corner
    box = sheet[y : y + grid.picture_height, x : x + grid.picture_width]
    rect = avatar.rects[index]
    try:
        picture = avatar.read_frame(index)
    except BrokenAvatar:
        box[:] = EMPTY
        write(sheet, "cannot be read", (x + 14, y + 30), BAD, 16, weight=BOLD)
    else:
        box[:] = cv2.resize(picture, (grid.picture_width, grid.picture_height), interpolation=cv2.INTER_AREA)
        scale = grid.picture_width / avatar.width
        outline(box, rect, RECT_COLOUR, scale)
    label = f"{index}"
    write(sheet, label, (x, y + grid.picture_height + 19), TEXT, 14, weight=BOLD)
    place = f"{rect.width}x{rect.height} at {rect.x1}, {rect.y1}"
    write(sheet, place, (x + 14 + 9 * len(label), y + grid.picture_height + 19), FAINT, 14)


def _draw_side(sheet: Picture, avatar: Avatar, x: int, y: int) -> None:
    """Draws the crop of the middle frame, enlarged and with its regions, and the network's pictures of it."""
    index = avatar.frame_count // 2
    try:
        crop = crop_328(avatar.read_frame(index), avatar.rects[index])
    except BrokenAvatar:
        sheet[y : y + SIDE_WIDTH, x : x + SIDE_WIDTH] = EMPTY
        write(sheet, f"frame {index} cannot be read", (x + 14, y + 30), BAD, 16, weight=BOLD)
        return
    scale = SIDE_WIDTH / CROP_SIZE
    large = sheet[y : y + SIDE_WIDTH, x : x + SIDE_WIDTH]
    large[:] = cv2.resize(crop, (SIDE_WIDTH, SIDE_WIDTH), interpolation=cv2.INTER_CUBIC)
    mask = avatar.mask
    left, top = MARGIN + mask.x, MARGIN + mask.y
    regions = (
        (Rect(0, 0, CROP_SIZE, CROP_SIZE), RECT_COLOUR, f"the rectangle of frame {index}, as a crop of {CROP_SIZE}x{CROP_SIZE}"),
        (Rect(MARGIN, MARGIN, MARGIN + MOUTH_SIZE, MARGIN + MOUTH_SIZE), INNER_COLOUR, "seen and replaced by the network"),
        (Rect(left, top, left + mask.width, top + mask.height), MASK_COLOUR, "hidden from it by the mask"),
    )
    line = y + SIDE_WIDTH
    for rect, colour, legend in regions:
        outline(large, rect, colour, scale)
        line += LABEL_HEIGHT
        sheet[line - 17 : line - 5, x : x + 12] = colour
        write(sheet, legend, (x + 22, line - 6), TEXT, 15)
    _draw_inputs(sheet, avatar, inner(crop), x, line + GAP)


def _reference(avatar: Avatar, seen: Picture) -> tuple[Picture, str]:
    """[320, 320, 3], the network's picture beside the masked crop, and its label."""
    if (index := avatar.reference_frame) is None:
        return seen, "the network's first picture"
    try:
        return inner(crop_328(avatar.read_frame(index), avatar.rects[index])), f"its first picture, frame {index}"
    except BrokenAvatar:
        return np.full_like(seen, EMPTY), f"frame {index} cannot be read"


def _draw_inputs(sheet: Picture, avatar: Avatar, seen: Picture, x: int, y: int) -> None:
    size = (SIDE_WIDTH - GAP) // 2
    masked = (seen * avatar.mask.kept()[..., None]).astype(np.uint8)
    reference, name = _reference(avatar, seen)
    for picture, label, left in ((reference, name, x), (masked, "its second, masked", x + size + GAP)):
        sheet[y : y + size, left : left + size] = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        write(sheet, label, (left, y + size + 19), FAINT, 14)
