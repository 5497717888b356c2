"""Services that die and come back while the page is open: it goes on without a reload, where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.end_to_end.processes import free_port, running, running_with_gateway

from .browsing import Visit, visit

pytestmark = pytest.mark.slow


def speaks(page: Visit) -> None:
    page.page.get_by_role("button", name="Recording").click()
    page.until("lipsync.log.at(-1)[2] > 1e6")


def assert_went_on(page: Visit) -> None:
    """The recording is shown to its end, no frame twice or out of order."""
    page.until("lipsync.mode === null")
    frames = page.frames()
    numbers = [frame[0] for frame in frames]
    assert numbers == sorted(set(numbers))
    spoken = [frame[2] for frame in frames if frame[2] >= 0]
    assert spoken == sorted(set(spoken))
    assert spoken[-1] > 11.5e6
    assert page.text("#problem-text") == ""


def test_all_services_are_killed_and_started_again(browser: Browser, models_root: Path, tmp_path: Path) -> None:
    settings = f"models_root={models_root}", "limits.admit_sessions=all", f"gateway.port=127.0.0.1:{free_port()}"
    with running_with_gateway(*settings, log=tmp_path / "first") as (gateway, _):
        page = visit(browser, f"http://{gateway.address}/")
        speaks(page)
        gateway.process.kill()
        gateway.process.wait()
    page.until("document.getElementById('connection').dataset.state === 'waiting'")
    with running_with_gateway(*settings, log=tmp_path / "second"):
        assert_went_on(page)
        assert page.text("#connection") == "Connected"
        page.page.context.close()


def test_the_compositing_service_is_killed_and_started_again(browser: Browser, models_root: Path, tmp_path: Path) -> None:
    models = f"models_root={models_root}"
    with running("inference", models, "limits.admit_sessions=all", log=tmp_path / "inference") as inference:
        port = f"server.port=127.0.0.1:{free_port()}"
        compositing = models, port, f"inference_server.url={inference.address}"
        with running("compositing", *compositing, log=tmp_path / "compositing") as first:
            upstream = f"compositing_server.url={first.address}"
            with running("gateway", upstream, log=tmp_path / "gateway") as gateway:
                page = visit(browser, f"http://{gateway.address}/")
                speaks(page)
                first.process.kill()
                first.process.wait()
                with running("compositing", *compositing, log=tmp_path / "again"):
                    assert_went_on(page)
                    assert page.complaints == []
                    page.page.context.close()
