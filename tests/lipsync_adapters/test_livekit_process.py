"""`lipsync livekit serve` as a process."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ..end_to_end.processes import TREE, until
from .test_livekit_worker import token


@contextmanager
def working(log: Path, *overrides: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A worker, the address for agents and that for health."""
    options = [
        part for override in ("server.port=127.0.0.1:0", "metrics.port=127.0.0.1:0", *overrides) for part in ("--set", override)
    ]
    command = [sys.executable, "-m", "lipsync_cli", "livekit", "serve", "--until-stdin-closes", *options]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=TREE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
    with process:
        assert process.stdout
        try:
            words = process.stdout.readline().split()
            assert words[:2] == ["ready", "livekit"], log.read_text()
            yield process, f"http://{words[2]}", f"http://{words[4]}"
        finally:
            process.terminate()


def ask(url: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_worker_serves_and_ends(server: str, tmp_path: Path) -> None:
    with working(tmp_path / "log", f"compositing_server.url={server}") as (process, agents, health):
        until(lambda: ask(f"{health}/health/ready")[0] == 200)
        assert ask(f"{agents}/rooms") == (200, '{"rooms": []}')
        status, told = ask(f"{agents}/launch", {"url": "ws://127.0.0.1:1", "token": token(), "avatar": "small"})
        assert (status, "LiveKit server" in told) == (502, True)
        assert "lipsync_running_calls 0.0" in ask(f"{health}/metrics")[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_only_known_agents_may_launch(server: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    command = [sys.executable, "-m", "lipsync_cli", "key", "create", "agent", "--file", str(keys), "--out", str(tmp_path / "key")]
    subprocess.run(command, cwd=TREE, check=True, capture_output=True)
    body = {"url": "nowhere", "token": token()}
    with working(tmp_path / "log", f"compositing_server.url={server}", f"auth.keys_file={keys}") as (_, agents, _):
        assert ask(f"{agents}/launch", body)[0] == 401
        known = {"Authorization": f"Bearer {(tmp_path / 'key').read_text().strip()}"}
        assert ask(f"{agents}/launch", body, known)[0] == 400


HEAD = "POST /launch HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("begun", "told"),
    [
        (f"{HEAD}Content-Length: 60000\r\n\r\n{{", "408 Request Timeout"),
        (f"{HEAD}Transfer-Encoding: chunked\r\n\r\nffff\r\n{{", "408 Request Timeout"),
        (HEAD, ""),
        ("", ""),
    ],
    ids=["a body", "a body of unknown length", "a head", "nothing"],
)
def test_a_request_that_never_ends_is_given_up(begun: str, told: str, tmp_path: Path) -> None:
    settings = "compositing_server.url=127.0.0.1:1", "server.receive_seconds=0.3"
    with working(tmp_path / "log", *settings) as (_, agents, _), connected(agents) as connection:
        connection.sendall(begun.encode())
        over = threading.Event()

        def drip() -> None:
            while begun and not over.wait(0.05):
                with suppress(OSError):
                    connection.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert told in read_to_the_end(connection)
        finally:
            over.set()
            dripping.join()


def test_large_and_packed_bodies_are_refused(tmp_path: Path) -> None:
    with working(tmp_path / "log", "compositing_server.url=127.0.0.1:1") as (_, agents, _):
        assert ask(f"{agents}/launch", "x" * (64 << 10))[0] == 413
        with connected(agents) as connection:
            packed = gzip.compress(json.dumps({"url": "ws://127.0.0.1:1", "token": token()}).encode())
            length = f"Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\nConnection: close\r\n\r\n"
            connection.sendall((HEAD + length).encode() + packed)
            assert "400 Bad Request" in read_to_the_end(connection)


def connected(agents: str) -> socket.socket:
    host, port = agents.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=25)  # less than requests get by default


def read_to_the_end(connection: socket.socket) -> str:
    """Returns all that came until the worker closed or reset the connection."""
    found = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            found += data
    return found.decode()


@pytest.mark.parametrize("setting", ["rooms.sample_rate=1", "rooms.unknown=1"])
def test_settings_that_cannot_be_are_named(setting: str) -> None:
    command = [sys.executable, "-m", "lipsync_cli", "livekit", "serve", "--set", setting]
    done = subprocess.run(command, cwd=TREE, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert setting.partition("=")[0] in done.stderr
