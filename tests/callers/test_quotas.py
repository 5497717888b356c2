"""Quotas of services that run: who is refused, with which time to come back, and who is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import pytest

from lipsync_cli.keys import create
from lipsync_client import Client, LipsyncError

from ..end_to_end.processes import Service, running_with_gateway
from .session_frames import next_frame

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
def services(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Service, list[str]]]:
    """The gateway, the compositing service, and the keys of five callers, the last with two sessions."""
    folder = tmp_path_factory.mktemp("quotas")
    file = folder / "keys.json"
    keys = [create(file, name, scopes=["infer", "admin"], avatars=None, valid=None).text for name in ("ann", "ben", "cat", "dan")]
    limits = ["sessions=2"]
    keys.append(create(file, "eva", scopes=["infer"], avatars=None, valid=None, limits=limits).text)
    settings = (
        f"models_root={models_root}",
        f"audio_encoder_path={models_root / 'none.onnx'}",
        "limits.admit_sessions=all",
        f"auth.keys_file={file}",
        "quotas.per_caller.sessions=1",
        "quotas.per_caller.batch_frames_per_minute=10",
        "quotas.per_caller.loads_per_hour=1",
    )
    with running_with_gateway(*settings, log=folder / "log") as (gateway, compositing):
        yield gateway, compositing, keys


def refusal(error: pytest.ExceptionInfo[LipsyncError]) -> int:
    assert error.value.code is EXHAUSTED
    assert error.value.retry_after_ms is not None
    return error.value.retry_after_ms


def test_frames_and_loads_of_one_caller_are_refused_and_not_those_of_another(
    services: tuple[Service, Service, list[str]],
) -> None:
    _, compositing, keys = services
    sound = np.zeros(640 * 10, np.float32)
    with Client(compositing.address, api_key=keys[0]) as ann, Client(compositing.address, api_key=keys[1]) as ben:
        assert len(ann.composite("small", sound, batch_size=10).frames) == 10
        with pytest.raises(LipsyncError) as caught:
            ann.composite("small", sound, batch_size=5)
        assert 1_000 < refusal(caught) <= 30_000
        assert len(ben.composite("small", sound, batch_size=10).frames) == 10
        ann.load("small")
        with pytest.raises(LipsyncError) as caught:
            ann.load("small")
        assert refusal(caught) > 3_000_000
        ben.load("small")


def test_a_second_session_is_refused_and_the_first_goes_on(services: tuple[Service, Service, list[str]]) -> None:
    _, compositing, keys = services
    with Client(compositing.address, api_key=keys[2]) as cat, cat.session("small") as first:
        events = iter(first)
        next_frame(events)
        with pytest.raises(LipsyncError) as caught, cat.session("other", admission_timeout=0) as second:
            next(iter(second))
        assert refusal(caught) > 0
        next_frame(events)


async def test_browsers_are_told_when_to_come_back(services: tuple[Service, Service, list[str]]) -> None:
    gateway, _, keys = services
    headers = {"Authorization": f"Bearer {keys[3]}"}
    config = {"config": {"model_id": "small"}}
    async with aiohttp.ClientSession(f"http://{gateway.address}") as http, http.ws_connect("/ws", headers=headers) as socket:
        await socket.send_json(config)
        assert "started" in await socket.receive_json(timeout=60)
        async with http.ws_connect("/ws", headers=headers) as second:
            await second.send_json(config)
            error = (await second.receive_json(timeout=60))["error"]
            assert error["code"] == "RESOURCE_EXHAUSTED"
            assert error["retry_ms"] > 0


async def test_limits_of_a_key_hold_behind_a_gateway(services: tuple[Service, Service, list[str]]) -> None:
    gateway, _, keys = services
    headers = {"Authorization": f"Bearer {keys[4]}"}
    async with aiohttp.ClientSession(f"http://{gateway.address}") as http, AsyncExitStack() as sockets:
        for wanted in ("started", "started", "error"):
            async with http.post("/api/tickets", headers=headers) as answer:
                ticket = (await answer.json())["ticket"]
            socket = await sockets.enter_async_context(http.ws_connect("/ws"))
            await socket.send_json({"config": {"model_id": "small", "ticket": ticket}})
            first = await socket.receive_json(timeout=60)
            assert wanted in first
        assert first["error"]["code"] == "RESOURCE_EXHAUSTED"
