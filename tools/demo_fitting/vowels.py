# ruff: noqa: RUF001 - the phonetic alphabet looks like that
"""Sung vowels and hums from a simple model of the voice: held tones of any pitch and colour, unknown to speech programs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.demo_fitting.sounds import Sound
from tools.demo_fitting.speakers import SAMPLE_RATE, Spoken

# Resonances of a man's voice in Hz; those of women and children lie higher by one factor.
_RESONANCES = {
    "i": (270, 2290, 3010),
    "ɪ": (390, 1990, 2550),
    "e": (450, 2050, 2600),
    "ɛ": (530, 1840, 2480),
    "æ": (660, 1720, 2410),
    "a": (750, 1300, 2450),
    "ɑ": (730, 1090, 2440),
    "ɔ": (570, 840, 2410),
    "o": (460, 800, 2400),
    "ʊ": (440, 1020, 2240),
    "u": (300, 870, 2240),
    "ʌ": (640, 1190, 2390),
    "ɝ": (490, 1350, 1690),
    "m": (250, 1100, 2200),
}
_HUM, _HUM_LEVEL = "m", 0.25
_FADE = 320  # samples over which one tone goes into the next


def sung(chance: np.random.Generator, *, tones: int = 8) -> Spoken:
    """A few tones of one voice, some with a pause after them."""
    names = list(_RESONANCES)
    size, pitch, tilt = chance.uniform(0.92, 1.3), chance.uniform(85, 330), chance.uniform(0.75, 0.97)
    sound = np.zeros(_FADE)
    sounds: list[Sound] = []
    for _ in range(tones):
        name = names[chance.integers(len(names))]
        length = int(chance.uniform(0.09, 0.7) * SAMPLE_RATE)
        tone = _tone(np.array(_RESONANCES[name]) * size, pitch * chance.uniform(0.85, 1.2), tilt, length + _FADE, chance)
        if name == _HUM:  # heard through the nose, which lets little pass above its first resonance
            tone = _filtered(tone, _dulled(0.76)) * _HUM_LEVEL
        tone *= chance.uniform(0.5, 1.0)
        start = len(sound) - _FADE // 2
        sound = _joined(sound, tone)
        sounds.append(Sound(start / SAMPLE_RATE, (start + length) / SAMPLE_RATE, name))
        if chance.random() < 0.4:
            sound = _joined(sound, np.zeros(int(chance.uniform(0.1, 0.4) * SAMPLE_RATE) + _FADE))
    return _joined(sound, np.zeros(2 * _FADE)), sounds


def _tone(
    resonances: NDArray[np.floating], pitch: float, tilt: float, length: int, chance: np.random.Generator
) -> NDArray[np.float64]:
    """Pulses, dulled, through resonators; peak 1."""
    t = np.arange(length) / SAMPLE_RATE
    wobble = 1 + 0.02 * chance.random() * np.sin(2 * np.pi * 5.5 * t) + chance.uniform(-0.15, 0.15) * t
    cycles = np.cumsum(pitch * wobble) / SAMPLE_RATE
    pulses = np.diff(np.floor(cycles), prepend=0.0) + 0.03 * chance.random() * chance.standard_normal(length)
    parts = [_dulled(tilt)]
    fourth = [1.4 * resonances[2]] if chance.random() < 0.6 else []
    for resonance in (*resonances, *fourth):
        radius = np.exp(-np.pi * (chance.uniform(50, 130) + 0.02 * resonance) / SAMPLE_RATE)
        angle = 2 * np.pi * resonance / SAMPLE_RATE
        parts.append(np.array([1.0, -2 * radius * np.cos(angle), radius**2]))
    voice = _filtered(pulses, *parts)
    return np.asarray(voice / np.abs(voice).max())


def _dulled(tilt: float) -> NDArray[np.float64]:
    """One pole: high tones weakened."""
    return np.array([1.0, -tilt])


def _filtered(sound: NDArray[np.float64], *poles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sound through 1 / polynomial for each of the given, each with gain 1 at 0 Hz."""
    length = len(sound) + SAMPLE_RATE // 4  # room for the last pulse to ring in
    turn = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    spectrum = np.fft.rfft(sound, length)
    for pole in poles:
        spectrum *= pole.sum() / np.polyval(pole[::-1], turn)
    return np.fft.irfft(spectrum, length)[: len(sound)]


def _joined(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    fade = np.linspace(0, 1, _FADE)
    middle = before[-_FADE:] * (1 - fade) + after[:_FADE] * fade
    return np.concatenate([before[:-_FADE], middle, after[_FADE:]])
