"""The gateway in a process with the services, and alone before there is any."""

from __future__ import annotations

import struct
import urllib.error
import urllib.request
from pathlib import Path

import aiohttp

from ..end_to_end.processes import free_port, running, until
from .conftest import Stack


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_all_serves_browsers_too(stack: Stack) -> None:
    until(lambda: get(f"{stack.url}/readyz")[0] == 200)
    assert get(f"{stack.url}/healthz") == (200, "ok\n")
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{stack.url}/ws") as socket:
        await socket.send_json({"config": {"model_id": "small"}})
        started = await socket.receive_json()
        assert started["started"]["width"] == 416
        message = await socket.receive()
        while message.type is aiohttp.WSMsgType.TEXT:  # a busy machine's service tells of it
            message = await socket.receive()
        frame = message.data
        assert struct.unpack_from("<BBH", frame) == (1, 0, 40)
        assert frame[40:42] == b"\xff\xd8"


def test_a_gateway_waits_for_the_first_compositing_service(tmp_path: Path) -> None:
    port = free_port()
    with running("gateway", f"compositing_server.url=127.0.0.1:{port}", log=tmp_path / "gateway") as gateway:
        url = f"http://{gateway.address}"
        assert get(f"{url}/healthz")[0] == 200
        until(lambda: f"the page is at {url}" in (tmp_path / "gateway").read_text())
        status, reason = get(f"{url}/readyz")
        assert status == 503
        assert reason == "no compositing service has answered yet\n"  # strangers hear it: without addresses
        overrides = f"models_root={tmp_path}", "inference_server.url=127.0.0.1:1"
        with running("compositing", *overrides, f"server.port=127.0.0.1:{port}", log=tmp_path / "compositing"):
            until(lambda: get(f"{url}/readyz")[0] == 200)
        until(lambda: get(f"{url}/readyz")[0] == 503)
