"""Time as one endless line of samples, silent but for the sound that was sent.

Column c of the line is centred on its sample 200 c, whatever part of the line was sent: that is what makes a feature the same
bytes however the sound was cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_service.audio.mel import BANDS, HALF, HOP, SILENCE, WINDOW, Columns, mel_columns, pre_emphasised


@dataclass(frozen=True)
class SoundLine:
    """Sound of which sample 0 lies at sample `start` of the line; pre-emphasised, the line is zero from sample `end` on."""

    sound: NDArray[np.float32]  # [samples] at 16 kHz
    start: int
    end: int

    @classmethod
    def in_silence(cls, sound: NDArray[np.float32], *, start: int) -> SoundLine:
        """Silence before and after: the first silent sample still differs from the last of the sound, so it counts too."""
        return cls(sound, start, start + len(sound) + 1)

    @classmethod
    def cut_off(cls, sound: NDArray[np.float32]) -> SoundLine:
        """As the research script has it: zeros are appended after the pre-emphasis, which cuts its last step off."""
        return cls(sound, 0, len(sound))

    def columns(self, first: int, count: int) -> Columns:
        """Columns `first` .. `first + count - 1` of the line: [count, 80]. Only those that the sound reaches cost anything."""
        columns = np.full((count, BANDS), SILENCE, np.float32)
        # Column c reads [200 c - 400, 200 c + 400): wanted are those that end after `start` and begin before `end`.
        begin = max(first, (self.start - HALF) // HOP + 1)
        stop = min(first + count, -((-self.end - HALF) // HOP))
        if begin < stop:
            stretch = self._stretch(HOP * begin - HALF, HOP * (stop - 1) - HALF + WINDOW)
            columns[begin - first : stop - first] = mel_columns(stretch)
        return columns

    def _stretch(self, begin: int, stop: int) -> NDArray[np.float64]:
        """The pre-emphasised samples [begin, stop) of the line."""
        samples = np.zeros(stop - begin + 1, np.float32)
        shift = self.start - (begin - 1)  # sample 0 of the sound lies here, after one sample for the pre-emphasis
        low, high = max(0, shift), min(len(samples), shift + len(self.sound))
        if low < high:
            samples[low:high] = self.sound[low - shift : high - shift]
        stretch = pre_emphasised(samples)
        stretch[max(0, self.end - begin) :] = 0.0
        return stretch
