# ruff: noqa: RUF001 - the phonetic alphabet looks like that
"""The mouth's movements for each speech sound, and from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.demo_drawing.mouths import POSE_SIZE

_RATE_HZ = 200
_GLIDE_S = 0.024  # sigma of the blur between sounds: lips need about 60 ms to move
_FIRMER = np.array([1, 1, 1, 1.25, 1.2, 1, 1])  # short closures are seen in full although the blur weakens them

# opened, spread, rounded, pressed, bitten, clenched, tongue: the order of `Pose`
_MOVEMENTS: dict[str, tuple[float, ...]] = {
    "a": (0.9, 0.15, 0, 0, 0, 0, 0),
    "ɑ": (0.85, 0, 0.12, 0, 0, 0, 0),
    "æ": (0.75, 0.45, 0, 0, 0, 0, 0),
    "ʌ": (0.6, 0.1, 0, 0, 0, 0, 0),
    "ɐ": (0.55, 0.1, 0, 0, 0, 0, 0),
    "ə": (0.35, 0.1, 0, 0, 0, 0, 0),
    "ɜɚɝ": (0.35, 0.05, 0.3, 0, 0, 0, 0),
    "e": (0.42, 0.6, 0, 0, 0, 0, 0),
    "ɛ": (0.55, 0.45, 0, 0, 0, 0, 0),
    "i": (0.2, 0.9, 0, 0, 0, 0.15, 0),
    "ɪᵻɨ": (0.28, 0.6, 0, 0, 0, 0.1, 0),
    "o": (0.5, 0, 0.75, 0, 0, 0, 0),
    "ɔ": (0.65, 0, 0.6, 0, 0, 0, 0),
    "ɒ": (0.7, 0, 0.45, 0, 0, 0, 0),
    "ʊ": (0.28, 0, 0.7, 0, 0, 0, 0),
    "uy": (0.2, 0, 0.95, 0, 0, 0, 0),
    "øœ": (0.42, 0, 0.65, 0, 0, 0, 0),
    "mbp": (0, 0, 0, 1, 0, 0, 0),
    "fv": (0.03, 0.1, 0, 0, 1, 0, 0),
    "wʍ": (0.12, 0, 0.95, 0, 0, 0, 0),
    "sz": (0.03, 0.35, 0, 0, 0, 0.95, 0),
    "ʃʒɕ": (0.06, 0, 0.5, 0, 0, 0.85, 0),
    "ç": (0.1, 0.5, 0, 0, 0, 0.5, 0),
    "td": (0.13, 0.15, 0, 0, 0, 0.47, 0.28),
    "nɾɲ": (0.18, 0.1, 0, 0, 0, 0.3, 0.5),
    "lɫɭʎ": (0.3, 0.1, 0, 0, 0, 0, 0.92),
    "θð": (0.15, 0.1, 0, 0, 0, 0.1, 1),
    "ɹ": (0.22, 0, 0.45, 0, 0, 0, 0),
    "r": (0.25, 0.05, 0.15, 0, 0, 0, 0.4),
    "kɡgŋʔ": (0.25, 0.1, 0, 0, 0, 0, 0),
    "hxɣʁʀ": (0.3, 0.08, 0, 0, 0, 0, 0),
    "j": (0.2, 0.7, 0, 0, 0, 0.1, 0),
}
_BY_SYMBOL = {symbol: np.array(pose) for symbols, pose in _MOVEMENTS.items() for symbol in symbols}


@dataclass(frozen=True, slots=True)
class Sound:
    """A stretch of speech: seconds, and its IPA symbols, of which a diphthong has two. No known symbol: silence."""

    start_s: float
    end_s: float
    symbols: str


def movements_at(sounds: Sequence[Sound], times_s: NDArray[np.floating]) -> NDArray[np.float32]:
    """[times, POSE_SIZE]: the mouth at those moments; at rest before and after."""
    steps = np.zeros((int((max(sound.end_s for sound in sounds) + 0.5) * _RATE_HZ), POSE_SIZE))
    for sound in sounds:
        known = [symbol for symbol in sound.symbols if symbol in _BY_SYMBOL]
        borders = (np.linspace(sound.start_s, sound.end_s, len(known) + 1) * _RATE_HZ).astype(int)
        for symbol, start, end in zip(known, borders[:-1], borders[1:], strict=True):
            steps[start:end] = _BY_SYMBOL[symbol]
    reach = int(4 * _GLIDE_S * _RATE_HZ)
    blur = np.exp(-((np.arange(-reach, reach + 1) / (_GLIDE_S * _RATE_HZ)) ** 2) / 2)
    clock = (np.arange(len(steps)) + 0.5) / _RATE_HZ
    smooth = np.stack([np.convolve(column, blur / blur.sum(), "same") for column in steps.T], 1)
    firm = np.minimum(smooth * _FIRMER, 1)
    return np.stack([np.interp(times_s, clock, column, left=0, right=0) for column in firm.T], 1).astype(np.float32)
