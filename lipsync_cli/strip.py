"""A picture of a film: frames spread over it, each with its time and the sound around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from lipsync_cli.movie import Picture
from lipsync_cli.recording import Speech
from shared_proto.timing import FRAME_RATE, SAMPLE_RATE_HZ, SAMPLES_A_FRAME

Box = tuple[int, int, int, int]  # x1, y1, x2, y2, half open

COLUMNS = 6
ROWS = 2
TILE_WIDTH = 320
WAVE_HEIGHT = 56
GAP = 4
LETTER_SIZE = 15
SAMPLES_AROUND = SAMPLE_RATE_HZ // 5  # 200 ms before and 200 ms after: 20 samples to a column of a tile
QUIETEST = 1e-3  # the wave of a film that is quieter than this is not enlarged to full height
PAPER = (250, 248, 246)
INK = (70, 60, 50)
WAVE = (200, 150, 90)
NOW = (60, 60, 220)


def strip_frames(frame_count: int) -> list[int]:
    """Picks the frames to show: the middles of equal parts of the film, each once."""
    shown = min(frame_count, COLUMNS * ROWS)
    return [(2 * k + 1) * frame_count // (2 * shown) for k in range(shown)]


class Strip:
    """Collects some frames of a film, with the sound around each, and draws them."""

    def __init__(self, frame_count: int, *, face: Box | None = None) -> None:
        """`face` is the part of the pictures to show; None shows whole pictures."""
        self._face = face
        self._sounds = {frame: np.zeros(2 * SAMPLES_AROUND, np.float32) for frame in strip_frames(frame_count)}
        self._pictures: dict[int, Picture] = {}
        self._loudest = QUIETEST

    def add_frame(self, frame: int, picture: Picture) -> None:
        """Keeps the picture if it is one of those to show."""
        if frame in self._sounds:
            x1, y1, x2, y2 = self._face or (0, 0, picture.shape[1], picture.shape[0])
            part = picture[y1:y2, x1:x2]
            height = max(1, round(TILE_WIDTH * part.shape[0] / part.shape[1]))
            self._pictures[frame] = np.asarray(cv2.resize(part, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)

    def with_sound(self, speech: Iterable[Speech]) -> Iterator[Speech]:
        """Yields the speech unchanged, from its start, and keeps the parts to show."""
        start = 0
        for piece in speech:
            self._loudest = max(self._loudest, float(np.abs(piece).max(initial=0)))
            for frame, sound in self._sounds.items():
                shift = frame * SAMPLES_A_FRAME - SAMPLES_AROUND - start  # start of this frame's part within the piece
                first, end = max(0, shift), min(len(piece), shift + len(sound))
                if first < end:
                    sound[first - shift : end - shift] = piece[first:end]
            start += len(piece)
            yield piece

    def draw(self) -> Picture:
        """Draws the kept frames in rows, each with its time and its sound."""
        drawn = [np.concatenate([picture, self._wave(frame)]) for frame, picture in sorted(self._pictures.items())]
        columns = min(COLUMNS, len(drawn))
        height, width = drawn[0].shape[:2]
        rows = -(-len(drawn) // columns)
        sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), PAPER, np.uint8)
        for k, tile in enumerate(drawn):
            y, x = GAP + (k // columns) * (height + GAP), GAP + (k % columns) * (width + GAP)
            sheet[y : y + height, x : x + width] = tile
        return sheet

    def _wave(self, frame: int) -> Picture:
        """Draws the sound from 200 ms before to 200 ms after, a line at the frame's moment, and its time below."""
        field = np.full((WAVE_HEIGHT, TILE_WIDTH, 3), 255, np.uint8)
        middle, reach = WAVE_HEIGHT // 3, WAVE_HEIGHT // 3 - 2
        peaks = np.abs(self._sounds[frame]).reshape(TILE_WIDTH, -1).max(axis=1)
        for x, peak in enumerate(np.rint(reach * peaks / self._loudest).astype(int).tolist()):
            cv2.line(field, (x, middle - peak), (x, middle + peak), WAVE)
        cv2.line(field, (TILE_WIDTH // 2, 0), (TILE_WIDTH // 2, 2 * middle), NOW)
        text = f"{frame / FRAME_RATE:.2f} s"
        cv2.putText(field, text, (8, WAVE_HEIGHT - 5), INK, cv2.FontFace("sans"), LETTER_SIZE)
        return field
