"""Sessions that cannot begin: the browser hears of it at once, however long a lost session may wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..end_to_end.processes import running_all
from .conftest import Stack, gateway, url_of
from .sockets import page

LIVE = {"model_id": "small", "audio_encoding": "PCM_INT16"}
PATIENT = "compositing_server.resume_seconds=3600"


@pytest.fixture(scope="module")
def full(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a compositing service that takes one session."""
    settings = (
        f"models_root={models_root}",
        f"audio_encoder_path={models_root / 'none.onnx'}",
        "limits.admit_sessions=all",
        "server.max_running_calls=1",
    )
    with running_all(*settings, log=tmp_path_factory.mktemp("full") / "all") as (service, *_):
        yield service.address


@pytest.mark.parametrize("resume", [{}, {"resume": {"next_number": 40, "segment": 0}}])
async def test_a_full_service_is_told_at_once_with_the_time_to_come_back(full: str, resume: dict[str, object]) -> None:
    async with gateway(full, PATIENT) as running, page(url_of(running), LIVE) as first:
        await first.wait(lambda: first.frames)
        async with page(url_of(running), LIVE | resume) as second:
            assert await second.closed() == 4008
        (error,) = second.of("error")
        assert second.came == [{"error": error}]
        assert error["code"] == "RESOURCE_EXHAUSTED"
        assert 0 < error["retry_ms"] <= 10_000
        await first.send(close={})
        assert await first.closed() == 1000
        async with page(url_of(running), LIVE) as third:
            await third.wait(lambda: third.frames)


@pytest.mark.parametrize(
    ("config", "code", "name"),
    [
        ({"model_id": "nobody"}, 4005, "NOT_FOUND"),
        ({"model_id": "../etc"}, 4003, "INVALID_ARGUMENT"),
        ({"model_id": "small", "resume": {"next_number": -1, "segment": 0}}, 4003, "INVALID_ARGUMENT"),
    ],
)
async def test_what_waiting_would_not_mend_is_told_at_once(stack: Stack, config: dict[str, object], code: int, name: str) -> None:
    async with gateway(stack.compositing.address, PATIENT) as running, page(url_of(running), config) as opened:
        assert await opened.closed() == code
    (error,) = opened.of("error")
    assert error["code"] == name
    assert "retry_ms" not in error


async def test_no_service_is_told_within_seconds() -> None:
    async with gateway("127.0.0.1:1", PATIENT) as running, page(url_of(running), LIVE) as opened:
        assert await opened.closed() == 4014
