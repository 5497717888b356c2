"""A gateway alone reads frames in the thread that waits for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from gateway_service.polling import VARIABLE, read_where_it_waits

from ..end_to_end.processes import Service, running


async def frames(ws: aiohttp.ClientWebSocketResponse, count: int) -> None:
    """Takes so many frames."""
    while count:
        count -= (await ws.receive()).type is aiohttp.WSMsgType.BINARY


# Python runs a module of this name as it starts. gRPC reads its experiments as it is imported, and never again.
SITECUSTOMIZE = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print("grpc with", os.environ.get("GRPC_EXPERIMENTS"), flush=True)

sys.meta_path.insert(0, Watch())
"""


def experiments_of(service: str, folder: Path) -> str:
    """Returns the line about gRPC's import in a service that is told to use a port that is none."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop(VARIABLE, None)
    command = [sys.executable, "-m", "lipsync_cli", "serve", service, "--set", "server.port=none"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
    assert "server.port" in done.stderr
    (line,) = done.stdout.splitlines()
    return line


def test_it_is_asked_before_grpc_is_imported(tmp_path: Path) -> None:
    assert experiments_of("gateway", tmp_path) == "grpc with -event_engine_client"
    assert experiments_of("compositing", tmp_path) == "grpc with None"


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
