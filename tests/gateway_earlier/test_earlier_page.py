"""A page of the earlier servers' time in Chromium: it gets frames from the gateway and draws them."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright

from ..end_to_end.contract_client import ContractClient
from ..jpegs import decoded
from .conftest import FRAMES
from .gateway import Gateway

CHROMIUM = "/usr/bin/chromium"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The page's address, on a server of its own, as those pages had."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=Path(__file__).parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/old_page.html"
        server.shutdown()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser.new_page()
        browser.close()


def drawn(page: Page, canvas: str) -> np.ndarray:
    """BGR [height, width, 3] of a canvas."""
    pixels = page.evaluate("id => pixels(id)", canvas)
    rgba = np.frombuffer(base64.b64decode(pixels["data"]), np.uint8).reshape(pixels["height"], pixels["width"], 4)
    return cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGR)


@pytest.mark.parametrize("place", ["/ws", "8084", "8085/ws"])
def test_a_page_loads_plays_and_speaks(site: str, page: Page, gateway: Gateway, direct: ContractClient, place: str) -> None:
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{site}?server=ws://{gateway.place(place)}")
    loaded = page.evaluate("load()")
    assert loaded["binary"]["type"] == "protocol_ack"
    assert (loaded["model"], loaded["metadata"]["frame_count"], loaded["pictures"]) == ("heard", FRAMES, FRAMES)
    stored = direct("GetVideoFrame", model_name="heard", frame_id=FRAMES - 1, video_type="full_body").frame_data
    assert_same(drawn(page, "original"), stored)
    shown = page.evaluate(f"play('heard', {FRAMES})")
    assert [each["frame"] for each in shown] == list(range(FRAMES))
    wanted = direct("GenerateInference", model_name="heard", frame_id=FRAMES - 1)
    assert shown[-1]["bounds"] == list(wanted.bounds)
    assert_same(drawn(page, "spoken"), wanted.prediction_data)
    assert page.evaluate("speak('heard', 3)")["frame"] == 3
    spoken = drawn(page, "spoken")
    silent = direct("GetVideoFrame", model_name="heard", frame_id=3, video_type="full_body").frame_data
    assert np.abs(spoken.astype(int) - decoded(silent)).max() > 60
    assert page.evaluate("askByJson('heard', 4)") == 4
    assert_same(drawn(page, "original"), direct("GenerateInference", model_name="heard", frame_id=4).prediction_data)
    assert page.evaluate("errors") == problems == []


def assert_same(picture: np.ndarray, jpeg: bytes) -> None:
    """But for the decoders' rounding."""
    wanted = decoded(jpeg)
    assert picture.shape == wanted.shape
    assert np.abs(picture.astype(int) - wanted).max() <= 4
