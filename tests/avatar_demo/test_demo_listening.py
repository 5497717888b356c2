"""The mouth follows the sound."""

from __future__ import annotations

import numpy as np
import pytest

from .conftest import Renderer, lip_width, opening

RATE = 16000
VOWELS = {"a": (730, 1090, 2440), "i": (270, 2290, 3010), "o": (500, 850, 2400), "u": (300, 870, 2240)}


def vowel(name: str, *, seconds: float = 0.8, pitch: float = 110, peak: float = 0.4) -> np.ndarray:
    """A harmonic series under the vowel's resonances."""
    t = np.arange(int(seconds * RATE)) / RATE
    sound = np.zeros_like(t)
    for harmonic in np.arange(pitch, 5000, pitch):
        gain = np.prod([1 / np.abs(1 - (harmonic / f) ** 2 + 1j * harmonic * 90 / f**2) for f in VOWELS[name]])
        sound += gain / harmonic * np.sin(2 * np.pi * harmonic * t + harmonic)
    return sound / np.abs(sound).max() * peak


def mouth_for(renderer: Renderer, sound: np.ndarray) -> np.ndarray:
    windows = renderer.windows(sound)
    return renderer.mouth(renderer.crop(0), windows[len(windows) // 2])


def test_silence_is_a_closed_mouth(renderer: Renderer) -> None:
    np.testing.assert_array_equal(renderer.rows(np.full((3, 1, 80, 16), -4, np.float32))[:, :7] < 0.05, True)
    resting = renderer.mouth(renderer.crop(0), np.zeros((16, 512), np.float32))  # the rows missing at a clip's ends
    np.testing.assert_array_equal(mouth_for(renderer, np.zeros(RATE)), resting)
    assert opening(resting) == 0


@pytest.mark.parametrize("level_db", [-80, -70, -60])
def test_a_quiet_room_is_a_closed_mouth(renderer: Renderer, level_db: float) -> None:
    noise = np.random.default_rng(2).standard_normal(RATE) * 10 ** (level_db / 20)
    assert opening(mouth_for(renderer, noise)) < 100


def test_rows_are_rows(renderer: Renderer) -> None:
    rows = renderer.rows(np.random.default_rng(3).uniform(-4, 4, (40, 1, 80, 16)).astype(np.float32))
    assert rows.shape == (40, 512)
    assert rows.dtype == np.float32
    assert rows.min() >= 0


def test_vowels_have_their_shapes(renderer: Renderer) -> None:
    mouths = {name: mouth_for(renderer, vowel(name)) for name in VOWELS}
    areas = {name: opening(mouth) for name, mouth in mouths.items()}
    widths = {name: lip_width(mouth) for name, mouth in mouths.items()}
    assert areas["a"] > 1.4 * max(areas["i"], areas["o"], areas["u"])
    assert min(areas.values()) > 100
    assert widths["i"] > widths["a"] > widths["o"]
    assert widths["i"] > widths["u"] + 40


@pytest.mark.parametrize("start_s", [0.4, 0.61, 0.83])
def test_a_vowel_opens_the_mouth_at_its_time(renderer: Renderer, start_s: float) -> None:
    """Sound of frame k lies in 40 k .. 40 k + 40 ms; the mouth is half open within one frame of it, and so is its closing."""
    burst = vowel("a", seconds=0.32)
    sound = np.zeros(int(1.8 * RATE))
    sound[int(start_s * RATE) : int(start_s * RATE) + len(burst)] = burst
    areas = np.array([opening(mouth) for mouth in renderer.mouths(renderer.crop(0), renderer.windows(sound))])
    opened = np.flatnonzero(areas > areas.max() / 2)
    assert abs(opened[0] - int(start_s / 0.04)) <= 1
    assert abs(opened[-1] - int((start_s + 0.32) / 0.04)) <= 1
    assert np.all(np.diff(opened) == 1)
    assert areas[: opened[0] - 3].max() == 0
    assert areas[opened[-1] + 4 :].max() == 0


def test_the_speech_moves_the_mouth_with_its_loudness(spoken_openings: np.ndarray, speech: np.ndarray) -> None:
    loudness = np.array(
        [np.sqrt((speech[max(0, 640 * k - 160) : 640 * k + 800] ** 2).mean()) for k in range(len(spoken_openings))]
    )
    level = np.log10(loudness + 1e-3)
    follows = {lag: np.corrcoef(np.roll(spoken_openings, -lag), level)[0, 1] for lag in range(-5, 6)}
    assert follows[0] > 0.5
    assert max(follows, key=follows.__getitem__) in {-1, 0, 1}


def test_the_speech_begins_ends_and_pauses_with_closed_lips(spoken_openings: np.ndarray, speech: np.ndarray) -> None:
    assert spoken_openings[:7].max() == 0
    assert spoken_openings[-10:].max() == 0
    peaks = np.array([np.abs(speech[max(0, 640 * (k - 2)) : 640 * (k + 3)]).max() for k in range(len(spoken_openings))])
    assert (peaks < 0.003).sum() > 20
    assert spoken_openings[peaks < 0.003].max() < 150


def test_the_speech_uses_the_whole_mouth_and_does_not_flicker(spoken_openings: np.ndarray) -> None:
    assert spoken_openings.max() > 2000
    closed = spoken_openings < 100
    assert 0.1 < closed.mean() < 0.6
    changes = np.diff(closed.astype(int)) != 0
    assert changes.sum() < 0.25 * len(closed)
    alone = ~closed[1:-1] & closed[:-2] & closed[2:]  # open for a single frame
    assert alone.sum() <= 3


@pytest.mark.parametrize("level_db", [-26, -12])
def test_a_faint_recording_moves_it_as_well(
    renderer: Renderer, speech: np.ndarray, spoken_openings: np.ndarray, level_db: float
) -> None:
    part = slice(50, 130)
    windows = renderer.windows(speech * 10 ** (level_db / 20))[part]
    faint = np.array([opening(mouth) for mouth in renderer.mouths(renderer.crop(0), windows)])
    assert np.corrcoef(faint, spoken_openings[part])[0, 1] > 0.85
    assert faint.mean() > 0.6 * spoken_openings[part].mean()


def test_lips_meet_for_m_in_frame(spoken_openings: np.ndarray) -> None:
    """ "frame by frame": the m and b of it are spoken from 8.14 s to 8.32 s and the m from 8.79 s to 8.92 s."""
    assert spoken_openings[int(8.17 / 0.04) : int(8.30 / 0.04)].max() < 150
    assert spoken_openings[int(8.83 / 0.04) : int(8.92 / 0.04)].min() < 150
    assert spoken_openings[int(8.34 / 0.04) : int(8.44 / 0.04)].max() > 800  # the "y" between them
