"""The page says in a sentence what goes wrong, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright

from tests.end_to_end.processes import free_port, running, running_all, running_with_gateway

from .browsing import Visit, visit
from .conftest import chromium
from .test_screens import complaints


def told(page: Visit) -> str:
    page.until("!document.getElementById('problem').hidden")
    return page.text("#problem-text")


def speak(page: Visit) -> None:
    page.page.get_by_role("button", name="Speak", exact=True).click()


def test_the_microphone_is_refused(playwright: Playwright, address: str) -> None:
    with chromium(playwright, allowed=False) as browser:
        page = visit(browser, address)
        speak(page)
        assert told(page).startswith("The browser was not allowed to use the microphone.")
        assert page.page.get_by_role("button", name="Speak", exact=True).is_visible()


def test_the_address_names_a_person_who_is_not_there(browser: Browser, address: str) -> None:
    page = visit(browser, f"{address}?avatar=nobody")
    assert told(page) == "There is no person “nobody” here: “demo” is shown."
    assert complaints(page) == []


@pytest.mark.slow
def test_there_is_no_microphone(playwright: Playwright, address: str) -> None:
    with chromium(playwright, microphone=False) as browser:
        page = visit(browser, address)
        speak(page)
        assert told(page).startswith("No microphone was found.")


@pytest.mark.slow
def test_a_page_without_tls_has_no_microphone(playwright: Playwright, address: str) -> None:
    with chromium(playwright, "--host-resolver-rules=MAP phone.test 127.0.0.1") as browser:
        page = visit(browser, address.replace("127.0.0.1", "phone.test"))
        speak(page)
        assert "HTTPS" in told(page)


@pytest.mark.slow
def test_what_the_gateway_is_set_to_shows(browser: Browser, models_root: Path, tmp_path: Path) -> None:
    settings = "gateway.speech.command=''", "gateway.sockets.idle_seconds=3"
    with running_with_gateway(f"models_root={models_root}", *settings, log=tmp_path / "log") as (gateway, _):
        page = visit(browser, f"http://{gateway.address}/")
        assert "espeak-ng" in page.text("#no-texts")
        assert page.page.get_by_label("Text to speak").is_disabled()
        assert page.page.get_by_role("button", name="Say it").is_disabled()
        assert told(page) == "Nobody has spoken or typed for 3 s, so the session ended to leave its place to others."
        assert page.text("#connection") == "Ended"
        assert complaints(page) == []
        (*_, last) = page.frames()
        page.page.get_by_role("button", name="Go on").click()
        page.until(f"lipsync.log.at(-1)[0] > {last[0]}")
        assert page.text("#problem-text") == ""
        told(page)
        page.page.get_by_role("button", name="Recording").click()  # does the same
        page.until("lipsync.log.at(-1)[2] > 4e6")
        assert page.complaints == []
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
    one_session = "server.max_running_calls=1", "limits.admit_sessions=all", "gateway.pictures.list_seconds=0"
    with running_with_gateway(f"models_root={models_root}", *one_session, log=tmp_path / "log") as (gateway, _):
        first = visit(browser, f"http://{gateway.address}/")
        opened = browser.new_context()
        second = Visit(opened.new_page(), [])
        second.page.goto(f"http://{gateway.address}/")
        assert told(second).startswith("The server has no room: the service already runs 1 calls, its limit")
        assert told(second).endswith("The page tries again by itself; leave it open.")
        counted = set()
        second.wait(lambda: counted.add(second.text("#problem-wait")) or len(counted) > 1, "it counts down")
        first.page.context.close()
        second.page.get_by_role("status").get_by_text("Ready").wait_for()
        assert second.page.locator("#problem").is_hidden()
        opened.close()


@pytest.mark.slow
def test_what_keeps_the_page_waiting_at_its_start(browser: Browser, models_root: Path, tmp_path: Path) -> None:
    upstream = f"127.0.0.1:{free_port()}"
    with running("gateway", f"compositing_server.url={upstream}", log=tmp_path / "gateway") as gateway:
        opened = browser.new_context()
        page = Visit(opened.new_page(), [])
        page.page.goto(f"http://{gateway.address}/")
        assert told(page).startswith("The gateway runs, but no compositing service answers it.")
        for name in ("Speak", "Recording", "Sound file", "Say it"):
            assert page.page.get_by_role("button", name=name, exact=True).is_disabled()
        page.page.route("**/api/avatars", lambda route: route.abort())
        page.wait(lambda: page.text("#problem-text").startswith("The gateway does not answer."), "nothing answers")
        page.page.unroute("**/api/avatars")
        with running_all(f"models_root={models_root}", f"server.port={upstream}", log=tmp_path / "all"):
            page.until("Boolean(lipsync.log.length > 5)")
            assert page.text("#problem-text") == ""
            assert page.page.get_by_role("button", name="Speak", exact=True).is_enabled()
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
