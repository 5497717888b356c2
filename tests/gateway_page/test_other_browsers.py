"""Browsers that do less with sound than Chromium, which is made to be one of them by a script before the page's own."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from playwright.sync_api import Browser

from .browsing import RATE_HZ, Visit, Watched, visit

IN_SYNC_S = 0.04
CORRELATED = 0.25

# As earlier versions of Firefox: no stream of a microphone enters a context of another rate.
MIXES_NO_RATES = """
const take = AudioContext.prototype.createMediaStreamSource;
AudioContext.prototype.createMediaStreamSource = function (stream) {
  if (this.sampleRate === 16000) throw new DOMException("different sample-rate", "NotSupportedError");
  window.took = this.sampleRate;
  return take.call(this, stream);
};
"""
# No context has another rate than the machine's.
ONE_RATE = """
const Any = AudioContext;
window.AudioContext = class extends Any {
  constructor(options) {
    if (options?.sampleRate) throw new DOMException("no such rate", "NotSupportedError");
    super(options);
  }
};
"""
# A machine without a loudspeaker: what is asked to run never does.
NO_OUTPUT = """
const Running = AudioContext;
window.AudioContext = class extends Running {
  constructor(options) {
    super(options);
    this.suspend();
  }
  resume() {
    window.plugIn = () => super.resume();
    return new Promise(() => {});
  }
};
"""


def spoken_into_the_microphone(page: Visit) -> Watched:
    page.page.get_by_label("Hear yourself").check()
    page.watch()
    page.page.get_by_role("button", name="Speak", exact=True).click()
    page.until("lipsync.mode === 'microphone'")
    page.page.wait_for_timeout(7000)
    page.page.get_by_role("button", name="Stop listening").click()
    page.until("lipsync.mode === null")
    page.page.wait_for_timeout(1000)
    return page.watched()


def assert_in_sync(seen: Watched) -> None:
    lag, correlation = seen.lag()
    assert correlation > CORRELATED
    assert abs(lag) <= IN_SYNC_S


def test_a_microphone_of_another_rate_than_the_pages_sound(browser: Browser, address: str) -> None:
    page = visit(browser, address, watched=True, script=MIXES_NO_RATES)
    assert_in_sync(spoken_into_the_microphone(page))
    assert page.page.evaluate("[took, lipsync.clock.context.sampleRate]") == [44_100, RATE_HZ]
    assert page.complaints == []
    page.page.context.close()


@pytest.mark.slow
def test_a_browser_that_knows_one_rate(browser: Browser, address: str) -> None:
    page = visit(browser, address, watched=True, script=ONE_RATE)
    assert_in_sync(spoken_into_the_microphone(page))
    assert page.page.evaluate("lipsync.clock.context.sampleRate") == 44_100
    page.watch()
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.mode === 'file'")
    page.until("lipsync.mode === null")
    assert_in_sync(page.watched())
    assert page.complaints == []
    page.page.context.close()


def test_a_machine_without_a_loudspeaker_shows_the_picture(browser: Browser, address: str) -> None:
    page = visit(browser, address, script=NO_OUTPUT)
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.log.at(-1)[2] > 1e6")
    assert page.text("#problem-text").startswith("The browser has no output for sound: the picture comes without it.")
    page.page.get_by_role("button", name="Interrupt").click()
    page.page.get_by_role("button", name="Speak", exact=True).click()
    page.until("document.getElementById('problem-text').textContent.includes('runs the microphone only with one')")
    assert page.page.evaluate("lipsync.listening") is False
    page.page.get_by_role("button", name="Recording").click()
    page.until("document.getElementById('problem-text').textContent.startsWith('The browser has no output for sound: the')")
    page.page.evaluate("plugIn()")
    page.until("lipsync.clock.isAudio && document.getElementById('problem').hidden")
    page.until("lipsync.mode === null")
    assert max(frame[2] for frame in page.frames()) > 11e6
    page.page.context.close()


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000, 96_000])
def test_sound_is_resampled_as_by_others(browser: Browser, address: str, rate: int) -> None:
    """Against soxr, in pieces of a worklet's size; what 16 kHz cannot hold must not come back as something else."""
    opened = browser.new_context()
    page = opened.new_page()
    page.goto(f"{address}page/icon.svg")
    generator = np.random.default_rng(rate)
    low = min(rate, RATE_HZ)
    noise = soxr.resample(soxr.resample(generator.standard_normal(low), low, 0.85 * low), 0.85 * low, rate)
    time = np.arange(len(noise)) / rate
    hiss = np.sin(2 * np.pi * 11_000 * time) if rate > 2 * 11_000 else np.zeros(len(noise))

    def resampled(sound: np.ndarray) -> np.ndarray:
        made = page.evaluate(
            """async ([rate, sound]) => {
                const { Resampler } = await import("/page/resampler.js");
                const resampler = new Resampler(rate, 16000);
                const made = [];
                for (let at = 0; at < sound.length; at += 128)
                  made.push(...resampler.push(Float32Array.from(sound.slice(at, at + 128))));
                return made;
            }""",
            [rate, [float(sample) for sample in sound]],
        )
        return np.array(made)

    made, wanted = resampled(noise), soxr.resample(noise, rate, RATE_HZ, quality="VHQ")
    assert len(wanted) - 0.01 * RATE_HZ - 500 < len(made) <= len(wanted)
    inner = slice(800, len(made) - 100)
    assert np.std(made[inner] - wanted[: len(made)][inner]) < 1e-3 * np.std(wanted)
    if hiss.any():
        assert np.abs(resampled(hiss)[800:]).max() < 1e-3
    opened.close()
