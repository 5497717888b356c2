"""Time as one endless line of samples, silent but for the sound that was sent; its columns, and the rows that are made of them.

Column c of the line is centred on its sample 200 c, whatever part of the line was sent: that is why a feature is the same bytes
however the sound was cut. A row is there for every frame, and is made from 16 columns (200 ms). 5 rows take 16 columns, so their
first columns are 0, 3, 6, 9, 12, 16 ..., and on the same grid before sample 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_service.audio.mel import BANDS, HALF, HOP, SILENCE, WINDOW, Columns, mel_columns, pre_emphasised

ROW_COLUMNS = 16

Starts = NDArray[np.int64]  # [rows], the first column of each row, ascending
RowColumns = NDArray[np.float32]  # [rows, 80, 16]


@dataclass(frozen=True)
class SoundLine:
    """Sound whose sample 0 is sample `start` of the line. After pre-emphasis, the line is zero from sample `end` on."""

    sound: NDArray[np.float32]  # [samples] at 16 kHz
    start: int
    end: int

    @classmethod
    def in_silence(cls, sound: NDArray[np.float32], *, start: int) -> SoundLine:
        """Puts silence before and after. The first silent sample still differs from the last of the sound, so it counts too."""
        return cls(sound, start, start + len(sound) + 1)

    @classmethod
    def cut_off(cls, sound: NDArray[np.float32]) -> SoundLine:
        """Ends the line as the research script does: it appends zeros after the pre-emphasis, whose last step is then missing."""
        return cls(sound, 0, len(sound))

    def columns(self, first: int, count: int) -> Columns:
        """Computes columns `first` to `first + count - 1`: [count, 80]. Only columns that the sound reaches cost anything."""
        columns = np.full((count, BANDS), SILENCE, np.float32)
        # Column c reads [200 c - 400, 200 c + 400): the sound reaches those that end after `start` and begin before `end`.
        begin = max(first, (self.start - HALF) // HOP + 1)
        stop = min(first + count, -((-self.end - HALF) // HOP))
        if begin < stop:
            stretch = self._stretch(HOP * begin - HALF, HOP * (stop - 1) - HALF + WINDOW)
            columns[begin - first : stop - first] = mel_columns(stretch)
        return columns

    def _stretch(self, begin: int, stop: int) -> NDArray[np.float64]:
        """Returns the pre-emphasised samples [begin, stop) of the line."""
        samples = np.zeros(stop - begin + 1, np.float32)
        shift = self.start - (begin - 1)  # where sample 0 of the sound goes, after one sample for the pre-emphasis
        low, high = max(0, shift), min(len(samples), shift + len(self.sound))
        if low < high:
            samples[low:high] = self.sound[low - shift : high - shift]
        stretch = pre_emphasised(samples)
        stretch[max(0, self.end - begin) :] = 0.0
        return stretch


def row_starts(first_row: int, row_count: int) -> Starts:
    """Returns the first columns of rows `first_row`, which may be negative, to `first_row + row_count - 1`."""
    return ROW_COLUMNS * np.arange(first_row, first_row + row_count, dtype=np.int64) // 5


def row_columns(line: SoundLine, starts: Starts) -> RowColumns:
    """Returns the columns of each row, C-contiguous. Computes those from the first start to the end of the last row."""
    first = int(starts[0])
    columns = line.columns(first, int(starts[-1]) - first + ROW_COLUMNS)
    return np.ascontiguousarray(columns[(starts - first)[:, np.newaxis] + np.arange(ROW_COLUMNS)].transpose(0, 2, 1))
