"""The four ways to speak, as somebody before the page sees and hears them."""

from __future__ import annotations

import io
import subprocess
import wave
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from playwright.sync_api import Browser

from .browsing import RATE_HZ, Visit, Watched, visit
from .conftest import SPEECH

IN_SYNC_S = 0.04
# Where every frame is drawn it is 0.5; sound that belongs to other pictures gives 0.1.
CORRELATED = 0.25
# The demo's closed lips are dark too: at most so large a share of what is looked at.
CLOSED = 0.05


@pytest.fixture(scope="module")
def page(browser: Browser, address: str) -> Iterator[Visit]:
    """One visit for all: what is said in one test is over before the next."""
    opened = visit(browser, address, watched=True)
    yield opened
    assert not opened.complaints
    opened.page.context.close()


def recording() -> np.ndarray:
    with wave.open(str(SPEECH)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def spoken(page: Visit) -> Watched:
    """The things seen and heard until a second after the end of what is said."""
    page.until("lipsync.mode === null")
    page.page.wait_for_timeout(1000)
    return page.watched()


def assert_in_sync(seen: Watched) -> None:
    """The mouth opens with the sound, and is still without it."""
    lag, correlation = seen.lag()
    assert correlation > CORRELATED
    assert abs(lag) <= IN_SYNC_S
    assert seen.openings[~seen.shown].max() < CLOSED < np.quantile(seen.openings[seen.shown], 0.9)


def assert_plays(seen: Watched, expected: np.ndarray) -> None:
    """The pieces of the sound are played as they are; where the machine is too busy a late one may be lost to the tap."""
    pieces = [piece for piece in np.split(expected[: len(expected) // 320 * 320], len(expected) // 320) if piece.any()]
    played = seen.sound.tobytes()
    assert np.mean([piece.tobytes() in played for piece in pieces]) > 0.8


def test_the_recording_is_shown_with_its_sound(page: Visit) -> None:
    page.watch()
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.mode === 'file'")
    seen = spoken(page)
    assert_in_sync(seen)
    assert_plays(seen, recording())
    drifts = [frame[4] - frame[3] for frame in page.frames() if frame[2] >= 0]
    assert np.mean(np.abs(drifts) <= IN_SYNC_S) > 0.9
    assert page.text("#state").startswith("Ready")


def test_a_file_is_shown_with_its_sound(page: Visit, tmp_path: Path) -> None:
    sound = np.repeat(recording()[16_000 : 16_000 * 4], 2)
    path = tmp_path / "talk.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(32_000)
        file.writeframes(np.repeat(sound, 2).astype("<i2").tobytes())
    page.watch()
    page.page.set_input_files("#file-input", path)
    page.until("lipsync.mode === 'file'")
    seen = spoken(page)
    assert_in_sync(seen)
    assert seen.shown.sum() > 30


def test_a_text_is_spoken_by_the_server(page: Visit) -> None:
    page.watch()
    page.page.get_by_label("Text to speak").fill("Good day. Somebody typed this, and now you hear it.")
    page.page.keyboard.press("Enter")
    page.until("lipsync.mode === 'text'")
    seen = spoken(page)
    assert_in_sync(seen)
    assert np.count_nonzero(seen.sound) > 16_000


def test_a_text_goes_on_whole_after_its_socket_broke(page: Visit) -> None:
    """Broken when some of its sound had not come down: the server is at most some seconds ahead."""
    text = "Nobody should lose a word of this. " * 7
    command = ["espeak-ng", "--stdout", "-v", "en", "-s", "175", text]
    with wave.open(io.BytesIO(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)) as file:
        # Its length is not in the file's header, which espeak-ng writes first.
        seconds = len(file.readframes(1 << 30)) / 2 / file.getframerate()
    before = len(page.frames())
    page.page.get_by_label("Text to speak").fill(text)
    page.page.keyboard.press("Enter")
    for moment in (0.2e6, 2.5e6):  # with little of it shown, and with more than goes into a frame
        page.until(f"lipsync.log.at(-1)[2] >= {moment}")
        page.page.evaluate("lipsync.session._socket.close()")
    page.until("lipsync.mode === null")
    frames = page.frames(since=before)
    numbers, spoken = [frame[0] for frame in frames], [frame[2] for frame in frames if frame[2] >= 0]
    assert numbers == sorted(set(numbers))
    assert spoken == sorted(set(spoken))
    assert abs(spoken[-1] / 1e6 - seconds) < 0.5
    assert page.text("#problem-text") == ""


def test_the_microphone_moves_the_mouth_after_a_constant_delay(page: Visit) -> None:
    page.page.get_by_label("Hear yourself").check()
    page.watch()
    page.page.get_by_role("button", name="Speak", exact=True).click()
    page.until("lipsync.mode === 'microphone'")
    page.page.wait_for_timeout(7000)
    page.page.get_by_role("button", name="Stop listening").click()
    seen = spoken(page)
    lag, correlation = seen.lag()
    assert correlation > CORRELATED
    assert abs(lag) <= IN_SYNC_S
    page.page.get_by_label("Hear yourself").uncheck()


def test_what_is_no_sound_is_refused_in_a_sentence(page: Visit, tmp_path: Path) -> None:
    path = tmp_path / "letter.wav"
    path.write_text("Dear reader")
    page.page.set_input_files("#file-input", path)
    page.until("!document.getElementById('problem').hidden")
    assert "letter.wav" in page.text("#problem-text")
    page.page.get_by_role("button", name="Close this message").click()
    assert page.text("#problem-text") == ""


def test_an_interrupt_ends_picture_and_sound_at_once(page: Visit) -> None:
    page.watch()
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.log.at(-1)[2] > 1e6")
    said, moment = page.page.evaluate(
        "document.getElementById('interrupt').click(), [lipsync.log.length, lipsync.clock.context.currentTime]"
    )
    page.until(f"lipsync.log.length > {said} + 20")
    # A frame is 40 ms: five of them are 200 ms.
    assert all(frame[2] < 0 for frame in page.frames(since=said)[5:])
    seen = page.watched()
    after = round((moment + 0.1 - seen.start) * RATE_HZ)
    assert seen.sound[:after].any()
    assert not seen.sound[after:].any()
    assert page.page.evaluate("lipsync.mode") is None


def test_the_person_moves_on_while_the_system_holds_the_sound(page: Visit) -> None:
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.log.at(-1)[2] > 0")
    page.page.get_by_role("button", name="Interrupt").click()
    for change in ("suspend", "resume"):
        page.page.evaluate(f"lipsync.clock.context.{change}()")
        drawn = len(page.frames())
        page.until(f"lipsync.log.length > {drawn} + 20")


def test_an_avatar_is_switched_in_the_middle_of_a_word(page: Visit) -> None:
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.log.at(-1)[2] > 1e6")
    page.page.get_by_role("radio", name="second").check()
    page.until("lipsync.session.avatar === 'second'")
    goes_on(page)
    page.page.get_by_role("radio", name="demo").check()
    page.until("lipsync.session.avatar === 'demo'")


def test_quality_and_look_ahead_change_in_the_middle_of_a_word(page: Visit) -> None:
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.log.at(-1)[2] > 1e6")
    page.page.get_by_label("Look-ahead").select_option("6")
    page.page.get_by_label("Picture", exact=True).select_option("QUALITY_HIGH")
    goes_on(page)
    page.page.get_by_label("Look-ahead").select_option("12")
    page.page.get_by_label("Picture", exact=True).select_option("QUALITY_UNSET")


def goes_on(page: Visit) -> None:
    """The recording is shown on from where it was, each frame once; then it is interrupted."""
    shown = len(page.frames())
    told = page.frames()[-1]
    page.until(f"lipsync.log.at(-1)[2] > {told[2]} + 1e6")
    frames = page.frames(since=shown - 1)
    assert all(after[0] > before[0] for before, after in pairwise(frames))
    spoken = [frame[2] for frame in frames if frame[2] >= 0]
    assert spoken == sorted(spoken)
    page.page.get_by_role("button", name="Interrupt").click()
    page.until("lipsync.mode === null && lipsync.log.at(-1)[2] < 0")


@pytest.mark.slow
def test_the_picture_keeps_to_the_sound_for_half_a_minute(browser: Browser, address: str, half_a_minute: Path) -> None:
    page = visit(browser, address)
    page.page.set_input_files("#file-input", half_a_minute)
    page.until("lipsync.mode === 'file'")
    page.until("lipsync.mode === null", within_s=120)
    drifts = [frame[4] - frame[3] for frame in page.frames() if frame[2] >= 0]
    assert len(drifts) > 250  # of 880; a busy machine drops pictures
    # It does not grow, and a picture far from its sound is one that a busy machine drew late.
    first, last = median(drifts[:125]), median(drifts[-125:])
    assert abs(first) < 0.04
    assert abs(last) < 0.04
    assert abs(last - first) < 0.02
    assert sum(abs(drift) > 0.04 for drift in drifts) < 0.05 * len(drifts)
    page.page.context.close()
