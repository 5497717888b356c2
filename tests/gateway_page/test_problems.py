"""What goes wrong is said in a sentence, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.end_to_end.processes import running_with_gateway

from .browsing import Visit, visit
from .conftest import chromium


def told(page: Visit) -> str:
    page.until("!document.getElementById('problem').hidden")
    return page.text("#problem-text")


def speak(page: Visit) -> None:
    page.page.get_by_role("button", name="Speak", exact=True).click()


def test_the_microphone_is_refused(address: str) -> None:
    with chromium(allowed=False) as browser:
        page = visit(browser, address)
        speak(page)
        assert told(page).startswith("The browser was not allowed to use the microphone.")
        assert page.page.get_by_role("button", name="Speak", exact=True).is_visible()


@pytest.mark.slow
def test_there_is_no_microphone(address: str) -> None:
    with chromium(microphone=False) as browser:
        page = visit(browser, address)
        speak(page)
        assert told(page).startswith("No microphone was found.")


@pytest.mark.slow
def test_a_page_without_tls_has_no_microphone(address: str) -> None:
    with chromium("--host-resolver-rules=MAP phone.test 127.0.0.1") as browser:
        page = visit(browser, address.replace("127.0.0.1", "phone.test"))
        speak(page)
        assert "HTTPS" in told(page)


@pytest.mark.slow
def test_the_server_speaks_no_texts(browser: Browser, models_root: Path, tmp_path: Path) -> None:
    settings = f"models_root={models_root}", "limits.admit_sessions=all", "gateway.speech.command=''"
    with running_with_gateway(*settings, log=tmp_path / "log") as (gateway, _):
        page = visit(browser, f"http://{gateway.address}/")
        page.page.get_by_label("Text to speak").fill("Hello")
        page.page.get_by_role("button", name="Say it").click()
        assert "espeak-ng" in told(page)
        page.page.context.close()


def test_an_avatar_that_is_not_there(browser: Browser, address: str) -> None:
    page = visit(browser, address)
    page.page.evaluate("lipsync.session.switchAvatar('nobody')")
    assert "“nobody” cannot be shown" in told(page)
    number = page.frames()[-1][0]
    page.until(f"lipsync.log.at(-1)[0] > {number} + 10")
    page.page.context.close()


@pytest.mark.slow
def test_there_is_no_avatar(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with running_with_gateway(f"models_root={tmp_path / 'models'}", log=tmp_path / "log") as (gateway, _):
        opened = browser.new_context()
        page = Visit(opened.new_page(), [])
        page.page.goto(f"http://{gateway.address}/")
        assert told(page).startswith("The server has no avatar to show.")
        opened.close()


@pytest.mark.slow
def test_a_full_server_gives_a_place_as_soon_as_it_has_one(browser: Browser, models_root: Path, tmp_path: Path) -> None:
    one_session = "server.max_running_calls=1", "limits.admit_sessions=all", "gateway.pictures.list_seconds=3600"
    with running_with_gateway(f"models_root={models_root}", *one_session, log=tmp_path / "log") as (gateway, _):
        first = visit(browser, f"http://{gateway.address}/")
        opened = browser.new_context()
        second = Visit(opened.new_page(), [])
        second.page.goto(f"http://{gateway.address}/")
        second.page.get_by_role("status").get_by_text("The server is full").wait_for()
        first.page.context.close()
        second.page.get_by_role("status").get_by_text("Ready").wait_for()
        opened.close()


def test_somebody_who_speaks_interrupts_where_that_is_allowed(browser: Browser, address: str) -> None:
    page = visit(browser, address)
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.log.at(-1)[2] > 0.4e6")
    page.page.get_by_label("Interrupt by speaking").check()
    page.until("lipsync.mode === null")
    page.page.get_by_role("status").get_by_text("Interrupted: you spoke.").wait_for()
    assert max(frame[2] for frame in page.frames()) < 9e6
    page.page.context.close()
