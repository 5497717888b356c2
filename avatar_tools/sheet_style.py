"""Colours, sizes and strokes of the pictures that show an avatar to a person: contact sheets and comparing films."""

from __future__ import annotations

from typing import TypeAlias

import cv2

from avatar_kit.geometry import Picture, Rect

Colour: TypeAlias = tuple[int, int, int]
"""BGR."""

BACKGROUND: Colour = (30, 27, 25)
EMPTY: Colour = (48, 44, 41)
TEXT: Colour = (240, 238, 236)
FAINT: Colour = (168, 160, 154)
RECT_COLOUR: Colour = (120, 230, 90)
INNER_COLOUR: Colour = (255, 200, 90)
MASK_COLOUR: Colour = (60, 170, 255)
BAD: Colour = (80, 80, 235)

PAGE_MARGIN, GAP = 28, 14
FRAMES_WIDTH, SIDE_WIDTH = 1056, 480  # many small pictures on the left, few large ones on the right
LABEL_HEIGHT = 30
BOLD = 650  # weight of the typeface

_NORMAL = 400


def outline(picture: Picture, rect: Rect, colour: Colour, scale: float = 1.0) -> None:
    """Draws a line just inside the border of the enlarged rectangle."""
    x1, y1, x2, y2 = (round(edge * scale) for edge in (rect.x1, rect.y1, rect.x2, rect.y2))
    cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, 2, cv2.LINE_AA)


def write(picture: Picture, text: str, at: tuple[int, int], colour: Colour, size: int, *, weight: int = _NORMAL) -> None:
    """Writes text with its baseline at `at`, in the typeface that OpenCV brings."""
    cv2.putText(picture, text, at, colour, cv2.FontFace("sans"), size, weight)
