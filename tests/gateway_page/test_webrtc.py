"""The page over WebRTC: Chromium decodes what the gateway sends, and says how it did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser

from .browsing import Visit, visit

# Keeps the connections for their statistics.
KEPT = """
  const Connection = window.RTCPeerConnection;
  window.connections = [];
  window.RTCPeerConnection = class extends Connection {
    constructor(...given) {
      super(...given);
      window.connections.push(this);
    }
  };
"""
STATISTICS = """async () => {
  const reports = [...(await connections.at(-1).getStats()).values()].filter(({ type }) => type === "inbound-rtp");
  return Object.fromEntries(reports.map((report) => [report.kind, report]));
}"""
# Mean colours of a grid of 16 x 9 fields of what an element shows.
COLOURS = """(element) => {
  const canvas = new OffscreenCanvas(16, 9);
  const paint = canvas.getContext("2d");
  paint.imageSmoothingQuality = "high";
  paint.drawImage(element, 0, 0, 16, 9);
  return Array.from(paint.getImageData(0, 0, 16, 9).data);
}"""
SECONDS = 30
# A busy machine holds up pictures and sound, each for itself; then it takes longer until they were together for so long.
TOGETHER_S, PATIENCE_S = 15, 240
IN_SYNC_MS = 45


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Visit]:
    opened = visit(browser, address, script=KEPT)
    yield opened
    opened.page.context.close()


def statistics(page: Visit) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = page.page.evaluate(STATISTICS)
    return found


def begin(page: Visit) -> None:
    page.page.select_option("#transport", "webrtc")
    page.until("!document.getElementById('stream').hidden")


def test_the_connection_is_changed_to_webrtc_and_back(page: Visit) -> None:
    frames = page.page.locator("#person").evaluate(COLOURS)
    begin(page)
    page.wait(lambda: statistics(page)["video"]["framesDecoded"] > 20, "pictures are decoded")
    video = page.page.locator("#stream")
    assert video.evaluate("(element) => [element.videoWidth, element.videoHeight]") == [1280, 720]
    difference = np.abs(np.array(video.evaluate(COLOURS)) - frames).reshape(-1, 4)[:, :3]
    assert np.median(difference) < 3
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.mode === 'file' && !document.getElementById('stream').muted")
    page.wait(lambda: statistics(page)["audio"]["totalAudioEnergy"] > 0.001, "the recording is heard")
    page.wait(lambda: "Mbit/s" in page.text("#stream-rate"), "figures are shown")
    page.page.get_by_role("button", name="Interrupt").click()
    page.until("lipsync.mode === null")
    count = len(page.frames())
    page.page.select_option("#transport", "websocket")
    page.wait(lambda: len(page.frames()) > count + 10, "frames are drawn again")
    assert page.page.locator("#stream").is_hidden()
    assert not page.complaints


@pytest.mark.slow
def test_picture_and_sound_stay_together(page: Visit, half_a_minute: Path) -> None:
    begin(page)
    page.page.locator("#file-input").set_input_files(half_a_minute)
    page.until("lipsync.mode === 'file'")
    before = statistics(page)["video"]
    apart: list[float] = []
    while len(apart) < SECONDS or abs(median(apart[-TOGETHER_S:])) > IN_SYNC_MS:
        assert len(apart) < PATIENCE_S, apart
        page.page.wait_for_timeout(1000)
        found = statistics(page)
        video, audio = found["video"], found["audio"]
        if "estimatedPlayoutTimestamp" in video and "estimatedPlayoutTimestamp" in audio:
            apart.append(
                audio["estimatedPlayoutTimestamp"] - audio["timestamp"] - video["estimatedPlayoutTimestamp"] + video["timestamp"]
            )
    decoded = video["framesDecoded"] - before["framesDecoded"]
    last = apart[-TOGETHER_S:]
    spread = f"{median(last):.0f} ms, {min(last):.0f} to {max(last):.0f}"
    print(f"{decoded} pictures in {len(apart)} s, {video['freezeCount']} freezes, sound before picture by {spread}")
    assert decoded > len(apart) * 25 // 2  # a busy machine sends and decodes fewer
