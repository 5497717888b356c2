"""Chromium before the page of a real gateway with the demo avatar."""

from __future__ import annotations

import os
import shutil
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from avatar_tools.demo import build_demo
from tests.end_to_end.processes import running_with_gateway

REPOSITORY = Path(__file__).parents[2]
SPEECH = REPOSITORY / "avatar_tools/demo/speech/speech.wav"


def program(name: str, package: str) -> str:
    """The path of a program; skips the test, or with REQUIRE_TOOLS fails it, when Debian's `package` is not installed."""
    path = shutil.which(name)
    if path is None:
        sentence = f"{name} is not installed (Debian's {package})"
        if os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return path


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """The one of a module: there is none beside another, and none beside an event loop."""
    with sync_playwright() as running:
        yield running


@contextmanager
def chromium(playwright: Playwright, *arguments: str, microphone: bool = True, allowed: bool = True) -> Iterator[Browser]:
    """A browser whose microphone plays the shipped recording once, each time that it is switched on."""
    path = program("chromium", "chromium")
    options = [*arguments]
    if microphone:
        options += ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={SPEECH}%noloop"]
    options += ["--use-fake-ui-for-media-stream"] if allowed else ["--deny-permission-prompts"]
    browser = playwright.chromium.launch(executable_path=path, args=options)
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with chromium(playwright) as opened:
        yield opened


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, and a second avatar that is the same person under another name."""
    root = tmp_path_factory.mktemp("models")
    build_demo(root)
    build_demo(root, "second")
    return root


@pytest.fixture(scope="session")
def address(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a gateway, all services in one process."""
    settings = f"models_root={models_root}", "limits.admit_sessions=all"
    with running_with_gateway(*settings, log=tmp_path_factory.mktemp("logs") / "all") as (gateway, _):
        yield f"http://{gateway.address}/"


@pytest.fixture(scope="session")
def half_a_minute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped recording three times: a sound file of 35 seconds."""
    path = tmp_path_factory.mktemp("sound") / "long.wav"
    with wave.open(str(SPEECH)) as one, wave.open(str(path), "wb") as three:
        three.setparams(one.getparams())
        three.writeframes(3 * one.readframes(one.getnframes()))
    return path
