"""The look of the page: sizes, colours, keyboard, and what screen readers are told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Browser

from .browsing import Visit, visit

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
SCREENS = [(360, 740), (820, 1180), (1440, 900)]
# `make page-image` keeps one of the screenshots; a folder keeps all, to be looked at.
IMAGE, FOLDER = os.environ.get("PAGE_IMAGE"), os.environ.get("PAGE_SCREENSHOTS")


def complaints(page: Visit) -> list[str]:
    """The rules of accessibility that the page breaks, of those that keep people out."""
    page.page.evaluate(AXE.read_text())
    found = page.page.evaluate("axe.run()")
    assert len(found["passes"]) > 10
    serious = [rule for rule in found["violations"] if rule["impact"] in {"serious", "critical"}]
    return [json.dumps([rule["id"], [node["html"] for node in rule["nodes"]]]) for rule in serious]


@pytest.mark.parametrize(("width", "height"), SCREENS)
def test_the_page_looks_right(browser: Browser, address: str, width: int, height: int, tmp_path: Path) -> None:
    """In the light and in the dark, to which it changes while it is open."""
    page = visit(browser, address, viewport={"width": width, "height": height}, color_scheme="light")
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.log.at(-1)[2] > 1.2e6")
    for scheme in ("light", "dark"):
        page.page.emulate_media(color_scheme=scheme)
        page.page.screenshot(path=Path(FOLDER or tmp_path) / f"{width}-{scheme}.png")
        if FOLDER:
            page.page.screenshot(path=Path(FOLDER) / f"{width}-{scheme}-whole.png", full_page=True)
        if IMAGE and (width, scheme) == (1440, "light"):
            page.until("lipsync.log.at(-1)[2] > 10.2e6")
            page.page.screenshot(path=IMAGE)
        assert page.page.evaluate("document.documentElement.scrollWidth") == width
        for name in ("person", "microphone", "interrupt", "text"):
            box = page.page.locator(f"#{name}").bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= height, f"{name} is below the fold"
        background = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) > 384) == (scheme == "light")
        assert complaints(page) == []
    assert page.complaints == []
    page.page.context.close()


def test_everything_is_reached_by_keyboard(browser: Browser, address: str) -> None:
    page = visit(browser, address)
    reached = []
    for _ in range(14):
        page.page.keyboard.press("Tab")
        reached.append(
            page.page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.type")
        )
    controls = ["microphone", "recording", "file", "text", "avatar", "quality", "hear"]
    assert [each for each in reached if each in controls][: len(controls)] == controls
    page.page.locator("#recording").focus()
    page.page.keyboard.press("Enter")
    page.until("lipsync.mode === 'file'")
    page.page.locator("#interrupt").focus()
    page.page.keyboard.press("Space")
    page.until("lipsync.mode === null")
    page.page.context.close()


def test_the_state_is_told_to_screen_readers(browser: Browser, address: str) -> None:
    page = visit(browser, address)
    page.page.get_by_role("button", name="Recording").click()
    page.page.get_by_role("status").get_by_text("Speaking the recording.").wait_for()
    page.page.get_by_role("button", name="Interrupt").click()
    page.page.get_by_role("status").get_by_text("Ready").wait_for()
    page.page.context.close()


def test_the_person_rests_where_motion_is_unwanted(browser: Browser, address: str) -> None:
    page = visit(browser, address, reduced_motion="reduce")
    assert not page.page.get_by_label("Move while silent").is_checked()

    def stands_still() -> bool:
        before = page.page.evaluate("lipsync.log.length")
        page.page.wait_for_timeout(500)
        return bool(page.page.evaluate("lipsync.log.length") == before)

    page.wait(stands_still, "the picture stands still")
    drawn = page.page.evaluate("lipsync.log.length")
    page.page.get_by_role("radio", name="second").check()
    page.until("lipsync.session.avatar === 'second'")
    page.until(f"lipsync.log.length > {drawn}")
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.log.at(-1)[2] > 0.4e6")
    page.page.context.close()
