"""A picture of a clip: frames spread over it, each with its time and the sound around it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_cli.movie import Picture
from lipsync_cli.recording import SPEECH_RATE_HZ

Box = tuple[int, int, int, int]  # x1, y1, x2, y2, half open

COLUMNS = 6
ROWS = 2
TILE_WIDTH = 320
WAVE_HEIGHT = 56
GAP = 4
LETTER_SIZE = 15
SOUND_AROUND_S = 0.2
PAPER = (250, 248, 246)
INK = (70, 60, 50)
WAVE = (200, 150, 90)
NOW = (60, 60, 220)


def strip_frames(frame_count: int) -> list[int]:
    """Which frames of a clip are shown: the middles of equal parts, each once."""
    shown = min(frame_count, COLUMNS * ROWS)
    return [(2 * k + 1) * frame_count // (2 * shown) for k in range(shown)]


def draw_strip(tiles: Sequence[tuple[float, Picture]], speech: NDArray[np.float32], *, face: Box | None = None) -> Picture:
    """Lays out pictures, each with its time in seconds, in rows; `face` is the part of the pictures that is shown."""
    drawn = [_tile(seconds, picture, speech, face) for seconds, picture in tiles]
    columns = min(COLUMNS, len(drawn))
    height, width = drawn[0].shape[:2]
    rows = -(-len(drawn) // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), PAPER, np.uint8)
    for k, tile in enumerate(drawn):
        y, x = GAP + (k // columns) * (height + GAP), GAP + (k % columns) * (width + GAP)
        sheet[y : y + height, x : x + width] = tile
    return sheet


def _tile(seconds: float, picture: Picture, speech: NDArray[np.float32], face: Box | None) -> Picture:
    x1, y1, x2, y2 = face or (0, 0, picture.shape[1], picture.shape[0])
    part = picture[y1:y2, x1:x2]
    height = max(1, round(TILE_WIDTH * part.shape[0] / part.shape[1]))
    scaled = cv2.resize(part, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA)
    return np.concatenate([scaled.astype(np.uint8, copy=False), _wave(seconds, speech)])


def _wave(seconds: float, speech: NDArray[np.float32]) -> Picture:
    """The sound from 200 ms before to 200 ms after, the moment itself marked, the time written below it."""
    field = np.full((WAVE_HEIGHT, TILE_WIDTH, 3), 255, np.uint8)
    middle, reach = WAVE_HEIGHT // 3, WAVE_HEIGHT // 3 - 2
    loudest = max(float(np.abs(speech).max(initial=0)), 1e-3)
    edges = (np.linspace(seconds - SOUND_AROUND_S, seconds + SOUND_AROUND_S, TILE_WIDTH + 1) * SPEECH_RATE_HZ).astype(int)
    for x, (first, end) in enumerate(pairwise(edges)):
        under = speech[max(first, 0) : max(end, 0)]
        peak = round(reach * float(np.abs(under).max(initial=0)) / loudest)
        cv2.line(field, (x, middle - peak), (x, middle + peak), WAVE)
    cv2.line(field, (TILE_WIDTH // 2, 0), (TILE_WIDTH // 2, 2 * middle), NOW)
    cv2.putText(field, f"{seconds:.2f} s", (8, WAVE_HEIGHT - 5), INK, cv2.FontFace("sans"), LETTER_SIZE)
    return field
