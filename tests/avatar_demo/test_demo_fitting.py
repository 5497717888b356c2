"""The fitting of the encoder: labels, voices and descent, without the speech programs, which not every machine has."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnxruntime as ort
import pytest

from tools.demo_fitting.corpus import normalised_mel
from tools.demo_fitting.encoder import INPUT_SIZE, build_encoder
from tools.demo_fitting.fit import fit, pooled
from tools.demo_fitting.sounds import Sound, movements_at
from tools.demo_fitting.vowels import sung

from .conftest import mel_of


def test_movements_are_full_within_a_sound_and_none_before_and_after() -> None:
    sounds = [Sound(0.5, 0.7, "a"), Sound(0.7, 0.8, "m"), Sound(0.8, 1.0, "i"), Sound(1.0, 1.2, "")]
    opened, spread, _, pressed, *_ = movements_at(sounds, np.array([0.0, 0.6, 0.75, 0.9, 1.15, 9.0])).T
    np.testing.assert_allclose(opened, (0, 0.9, 0, 0.2, 0, 0), atol=0.06)
    np.testing.assert_allclose(pressed, (0, 0, 1, 0, 0, 0), atol=0.06)
    assert spread[3] == pytest.approx(0.9, abs=0.06)


def test_a_diphthong_goes_from_one_to_the_other() -> None:
    _, _, rounded, *_ = movements_at([Sound(0.2, 0.6, "aʊ")], np.array([0.3, 0.5])).T
    assert rounded[0] < 0.05 < 0.6 < rounded[1]


def test_sung_tones_are_where_they_say() -> None:
    sound, sounds = sung(np.random.default_rng(4))
    assert np.isfinite(sound).all()
    assert 0.2 < np.abs(sound).max() <= 1.5
    assert all(before.end_s <= after.start_s + 1e-9 for before, after in pairwise(sounds))
    for tone in sounds:
        assert np.abs(sound[int(tone.start_s * 16000) : int(tone.end_s * 16000)]).max() > 0.02
    assert sounds[-1].end_s * 16000 <= len(sound)


def test_the_spectrum_is_the_references() -> None:
    sound = np.random.default_rng(1).standard_normal(16000) * 0.1
    np.testing.assert_allclose(normalised_mel(sound), mel_of(sound), atol=1e-5)


def test_descent_learns_what_can_be_learned_and_the_encoder_computes_it() -> None:
    chance = np.random.default_rng(2)
    loudness = chance.uniform(-3, 3, (2048, 1, 1))
    windows = (loudness + chance.uniform(-1, 1, (2048, 80, 16))).astype(np.float32)
    inputs = pooled(windows)
    assert inputs.shape == (2048, INPUT_SIZE)
    wanted = np.repeat((loudness[:, :, 0] > 0).astype(np.float32), 7, axis=1)
    weights = fit(inputs, wanted)
    session = ort.InferenceSession(build_encoder(weights).SerializeToString(), providers=["CPUExecutionProvider"])
    told = session.run(None, {"mel": windows[:, None]})[0]
    by_hand = np.maximum(inputs @ weights.hidden + weights.hidden_bias, 0) @ weights.output + weights.output_bias
    np.testing.assert_allclose(told[:, :7], by_hand.clip(0, 1), atol=1e-4)
    assert np.corrcoef(told[:, 0], wanted[:, 0])[0, 1] > 0.8
