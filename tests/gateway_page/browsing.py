"""The page in Chromium: what it draws, plays and logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent
UNTIL_S = 90
RATE_HZ = 16_000
FRESH_S = 0.06
# The demo's mouth: left, top, width, height in its pictures of 1280x720, wherever its head is.
MOUTH = [598, 382, 80, 61]


@dataclass
class Watched:
    """The things that a person would have seen and heard; times in seconds of the sound that is heard."""

    moments: np.ndarray
    openings: np.ndarray
    """Share of dark pixels around the mouth, of each drawn frame."""
    segments: np.ndarray
    audio_us: np.ndarray
    start: float
    sound: np.ndarray
    """int16 at 16 kHz from `start` on, without a gap."""

    @property
    def shown(self) -> np.ndarray:
        """Tells of each frame if it has sound."""
        return self.audio_us >= 0

    def lag(self) -> tuple[float, float]:
        """Seconds by which the mouth follows the loudness best, and the correlation there."""
        grid = np.arange(self.moments[0] + 0.5, self.moments[-1] - 0.5, 0.005)
        shown = np.searchsorted(self.moments, grid, side="right") - 1
        # A busy machine draws no frame for a while: nothing is to be learned from a picture that stands still.
        fresh = grid - self.moments[shown] < FRESH_S
        grid, openings = grid[fresh], self.openings[shown[fresh]]
        loudness = np.sqrt(np.convolve(self.sound.astype(float) ** 2, np.ones(640) / 640, mode="same"))
        lags = np.arange(-0.3, 0.3001, 0.005)
        found = []
        for lag in lags:
            places = np.clip(((grid - lag - self.start) * RATE_HZ).astype(int), 0, len(loudness) - 1)
            found.append(np.corrcoef(openings, loudness[places])[0, 1])
        best = int(np.argmax(found))
        return float(lags[best]), float(found[best])


@dataclass
class Visit:
    """One visit of the page; `complaints` has what the browser's console said."""

    page: Page
    complaints: list[str]

    def until(self, expression: str, *, within_s: float = UNTIL_S) -> None:
        """Asks again and again: the page's policy forbids the browser's own way of waiting."""
        self.wait(lambda: bool(self.page.evaluate(expression)), expression, within_s=within_s)

    def wait(self, true: Callable[[], bool], what: str, *, within_s: float = UNTIL_S) -> None:
        deadline = time.monotonic() + within_s
        while not true():
            assert time.monotonic() < deadline, (what, self.text("#problem-text"), self.text("#state"), self.complaints)
            self.page.wait_for_timeout(50)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text() if self.page.locator(selector).count() else ""

    def frames(self, *, since: int = 0) -> list[list[float]]:
        """The page's log: number, segment, audio_us, moment of the sound, moment drawn."""
        log: list[list[float]] = self.page.evaluate("since => lipsync.log.slice(since)", since)
        return log

    def watch(self) -> None:
        self.page.evaluate("box => watch(box)", MOUTH)

    def watched(self) -> Watched:
        """Ends watching."""
        told: dict[str, Any] = self.page.evaluate("readWatched()")
        mouths, rate = np.array(told["mouths"]), told["rate"]
        # Before the first sound the page goes by the system's clock, and then by the sound's.
        mouths = mouths[np.flatnonzero(np.diff(mouths[:, 0], prepend=np.inf) < 0)[-1] :]
        start = told["heard"][0][0]
        places = [round((at - start) * rate) for at, _ in told["heard"]]
        sound = np.zeros(places[-1] + len(told["heard"][-1][1]), np.int16)
        for place, (_, samples) in zip(places, told["heard"], strict=True):
            sound[place : place + len(samples)] = samples
        if rate != RATE_HZ:
            sound = soxr.resample(sound, rate, RATE_HZ)
        return Watched(mouths[:, 0], mouths[:, 1], mouths[:, 3], mouths[:, 4], start, sound)


def visit(browser: Browser, address: str, *, watched: bool = False, script: str = "", **context: Any) -> Visit:
    """Opens the page, and waits until the person moves. Close its context afterwards.

    `watched`: with what hears and sees it; that needs a script that the page's own policy would forbid. `script` runs before the
    page's own, to make the browser another one.
    """
    # A small screen costs a busy machine less.
    opened = browser.new_context(**{"viewport": {"width": 480, "height": 800}, "bypass_csp": watched, **context})
    page = opened.new_page()
    if watched:
        page.add_init_script(path=HERE / "watching.js")
    if script:
        page.add_init_script(script=script)
    visited = Visit(page, [])
    page.on("console", lambda message: visited.complaints.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: visited.complaints.append(str(error)))
    page.goto(address)
    visited.until("Boolean(window.lipsync && lipsync.log.length > (lipsync.showing.stillAtRest ? 0 : 5))")
    return visited
