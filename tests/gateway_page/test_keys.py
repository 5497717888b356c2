"""The page of a gateway that asks for keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from lipsync_cli.keys import create, revoke_caller
from tests.end_to_end.processes import running_with_gateway

from .browsing import UNTIL_S, Visit

MOVES = "Boolean(window.lipsync && lipsync.log.length > 5)"


@dataclass(frozen=True)
class Asking:
    address: str
    keys: Path
    key: str


@pytest.fixture
def asking(models_root: Path, tmp_path: Path) -> Iterator[Asking]:
    path = tmp_path / "keys.json"
    key = create(path, "alice", scopes=None, avatars=None, valid=None).text
    settings = f"models_root={models_root}", "limits.admit_sessions=all", f"auth.keys_file={path}", "auth.reload_seconds=0.1"
    with running_with_gateway(*settings, log=tmp_path / "log") as (gateway, _):
        yield Asking(f"http://{gateway.address}/", path, key)


def give(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Open").click()


def until(page: Page, true: str) -> None:
    Visit(page, []).until(true)


def test_a_key_opens_the_page_until_it_is_revoked(browser: Browser, asking: Asking) -> None:
    context = browser.new_context()
    page = context.new_page()
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("websocket", lambda socket: addresses.append(socket.url))
    page.goto(asking.address)
    page.get_by_label("API key").wait_for()
    assert not Axe().run(page).response["violations"]
    give(page, "ls_live_nonsense")
    until(page, "document.getElementById('problem-text').textContent.startsWith('The server does not take this key')")
    give(page, asking.key)
    until(page, MOVES)
    assert not page.get_by_label("API key").is_visible()
    until(page, "[...document.querySelectorAll('#avatars img')].every((image) => image.naturalWidth > 0)")
    page.reload()  # the tab knows it
    until(page, MOVES)
    other = context.new_page()  # another one does not
    other.goto(asking.address)
    other.get_by_label("API key").wait_for()
    other.close()
    revoke_caller(asking.keys, "alice")
    page.get_by_label("API key").wait_for(timeout=UNTIL_S * 1000)
    assert not [address for address in addresses if asking.key in address or "ticket=" in address]
    context.close()
