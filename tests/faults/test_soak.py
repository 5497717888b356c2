"""The judge of long runs sees what grows, and the run itself does."""

from __future__ import annotations

import numpy as np
import pytest

from .slopes import Rule, judged
from .soak import LEAKS, RULES, soak

MEMORY = RULES["memory"]


def series(seconds: float, per_minute: float, *, noise: float = 3.0, peaks: float = 0.0) -> list[tuple[float, float]]:
    """Four values a second: a warm-up that rises, then a slope, noise, and a peak now and then."""
    chance = np.random.default_rng(3)
    times = np.arange(0, seconds, 0.25)
    values = 100 + 80 * np.minimum(1, times / (seconds / 4)) + per_minute * times / 60 + chance.normal(0, noise, len(times))
    values += peaks * (chance.random(len(times)) < 0.05)
    return list(zip(times.tolist(), values.tolist(), strict=True))


@pytest.mark.parametrize(
    ("seconds", "per_minute", "good"),
    [(90, 0, True), (90, 20, False), (600, 0.5, True), (600, 4, False), (3600, 0.9, True), (3600, 1.3, False)],
)
def test_growth_is_told_from_warm_up_noise_and_peaks(seconds: float, per_minute: float, good: bool) -> None:
    verdict = judged("memory", series(seconds, per_minute, peaks=300), MEMORY, warm_up_s=seconds / 3)
    assert verdict.is_good is good, verdict.line()
    assert verdict.per_minute == pytest.approx(per_minute, abs=2 if seconds < 100 else 0.2)


def test_a_step_up_for_good_at_the_beginning_is_none() -> None:
    steps = [(time, 20.0 if time < 35 else 22.0) for time in np.arange(0, 90, 0.25)]
    assert judged("threads", steps, Rule("", growth=3), warm_up_s=30).is_good


def test_leaks_that_are_planted_are_found() -> None:
    """Into the compositing service; the inference service has none."""
    verdicts, failures, done = soak(20, tuple(LEAKS))
    told = {verdict.name: verdict for verdict in verdicts}
    assert {name for name in told if not told[name].is_good} >= {f"compositing {leak}" for leak in LEAKS}
    assert all(told[f"inference {leak}"].is_good for leak in ("descriptors", "threads"))
    assert not failures
    assert min(done[work] for work in ("_batches", "_sessions", "_mistakes", "_loads", "_small_calls")) > 0
