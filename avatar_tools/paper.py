"""What the parts of a contact sheet are drawn with."""

from __future__ import annotations

from typing import TypeAlias

import cv2

from avatar_kit.geometry import Picture, Rect

Colour: TypeAlias = tuple[int, int, int]
"""BGR."""

PAPER: Colour = (30, 27, 25)
EMPTY: Colour = (48, 44, 41)
TEXT: Colour = (240, 238, 236)
FAINT: Colour = (168, 160, 154)
RECT_COLOUR: Colour = (120, 230, 90)
INNER_COLOUR: Colour = (255, 200, 90)
MASK_COLOUR: Colour = (60, 170, 255)
BAD: Colour = (80, 80, 235)

PAGE_MARGIN, GAP = 28, 14
FILM_WIDTH, SIDE_WIDTH = 1056, 480  # what there is many of on the left, what is enlarged on the right
LABEL_HEIGHT = 30
BOLD = 650  # weight of the typeface

_NORMAL = 400


def outline(picture: Picture, rect: Rect, colour: Colour) -> None:
    """A line just inside the rectangle's border."""
    cv2.rectangle(picture, (rect.x1, rect.y1), (rect.x2 - 1, rect.y2 - 1), colour, 2, cv2.LINE_AA)


def write(picture: Picture, text: str, at: tuple[int, int], colour: Colour, size: int, *, weight: int = _NORMAL) -> None:
    """Text with its baseline at `at`, in the typeface that OpenCV carries."""
    cv2.putText(picture, text, at, colour, cv2.FontFace("sans"), size, weight)
