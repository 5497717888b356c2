"""The page of docs/websocket.md as it stands there, in Chromium."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

from ..docs.pages import TREE, blocks
from .conftest import Stack

CHROMIUM = "/usr/bin/chromium"
SPEECH = TREE / "avatar_tools" / "demo" / "speech" / "speech.wav"
# A page that comes from the test and no address counts as one of the public network, which may not call this machine.
LOOPBACK_ALLOWED = ["--disable-features=LocalNetworkAccessChecks"]
PATIENCE_MS = 60_000


def second_of_sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((9000 * np.sin(np.arange(16_000) / 20)).astype("<i2").tobytes())
    return path


def picture(opened: Page) -> str:
    drawn: str = opened.evaluate("document.querySelector('canvas').toDataURL()")
    return drawn


def test_it_speaks_a_file_and_is_interrupted(stack: Stack, tmp_path: Path) -> None:
    (text,) = blocks(TREE / "docs" / "websocket.md", "html")
    text = text.replace("localhost:8086", stack.gateway.address)
    said: list[str] = []
    events: list[dict[str, Any]] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            said.append(message.text)
        elif message.text.startswith("{"):
            events.append(json.loads(message.text))

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=LOOPBACK_ALLOWED)
        opened = browser.new_page()
        opened.on("console", hear)
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.route("**/page.html", lambda route: route.fulfill(body=text, content_type="text/html"))
        opened.goto(f"{stack.url}/page.html")

        def until(name: str) -> dict[str, Any]:
            while not (found := [event[name] for event in events if name in event]):
                opened.wait_for_timeout(50)
            return found[-1]

        assert until("started")["width"] == 416
        blank = "!document.querySelector('canvas').getContext('2d').getImageData(50, 50, 1, 1).data[3]"
        opened.wait_for_function(f"() => !({blank})", timeout=PATIENCE_MS)
        still = picture(opened)
        opened.set_input_files("input", SPEECH)
        opened.wait_for_function(
            f"(still) => document.querySelector('canvas').toDataURL() !== {json.dumps(still)}", timeout=PATIENCE_MS
        )
        opened.click("button")
        assert until("interrupted")["segment"] <= 0
        opened.reload()
        events.clear()
        until("started")
        opened.set_input_files("input", second_of_sound(tmp_path / "second.wav"))
        assert until("segment_ended") == {"segment": 0, "frames": 25, "audio_us": 1_000_000}
        browser.close()
    assert said == []
