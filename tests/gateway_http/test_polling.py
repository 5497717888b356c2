"""A gateway alone reads frames in the thread that waits for them."""

from __future__ import annotations

import os
from pathlib import Path

import aiohttp
import pytest

from gateway_service.polling import VARIABLE, read_where_it_waits

from ..end_to_end.processes import Service, running


async def frames(ws: aiohttp.ClientWebSocketResponse, count: int) -> None:
    """Takes so many frames."""
    while count:
        count -= (await ws.receive()).type is aiohttp.WSMsgType.BINARY


async def test_grpc_still_knows_what_is_asked_of_it(
    compositing: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    log = tmp_path / "log"
    with running("gateway", f"compositing_server.url={compositing.address}", log=log) as gateway:
        async with aiohttp.ClientSession() as http, http.ws_connect(f"http://{gateway.address}/ws") as ws:
            await ws.send_json({"config": {"model_id": "small"}})
            await frames(ws, 5)
    assert "xperiment" not in log.read_text()  # a gRPC that does not know it any more says so


def test_what_the_environment_says_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "tcp_frame_size_tuning")
    read_where_it_waits()
    assert os.environ[VARIABLE] == "tcp_frame_size_tuning"
