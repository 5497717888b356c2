"""The gateway's doors, tried by curl: closed, half open and open."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Guarded

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
WEBSOCKET = (
    *("-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13"),
    *("-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
)


def curl(guarded: Guarded, path: str, *arguments: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of an answer."""
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--include", *arguments]
    done = subprocess.run([*command, f"http://{guarded.gateway.address}{path}"], capture_output=True, check=False)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body.decode("latin-1")


def test_a_closed_door(guarded: Guarded) -> None:
    for arguments in (
        (),
        ("--user", "alice:secret"),
        ("-H", "Authorization: Bearer"),
        ("-H", "X-Api-Key;"),
        ("--cookie", "key=1"),
    ):
        status, headers, body = curl(guarded, "/api/avatars", *arguments)
        assert (status, json.loads(body)["code"]) == (401, "UNAUTHENTICATED"), arguments
        assert headers["www-authenticate"].startswith("Bearer ")


def test_a_door_half_open(guarded: Guarded, keys: dict[str, str]) -> None:
    reader = ("-H", f"Authorization: Bearer {keys['reader']}")
    assert curl(guarded, "/api/avatars", *reader)[0] == 200
    assert curl(guarded, "/api/tickets", "-X", "POST", *reader)[0] == 403
    assert curl(guarded, "/ws", *WEBSOCKET, *reader)[0] == 403


def test_an_open_door(guarded: Guarded, keys: dict[str, str], tmp_path: Path) -> None:
    """The key comes from a file, which no list of processes shows."""
    header = tmp_path / "header"
    header.write_text(f"X-Api-Key: {keys['alice']}\n")
    status, _, body = curl(guarded, "/api/avatars", "-H", f"@{header}")
    assert status == 200
    assert len(json.loads(body)["avatars"]) == 3
    assert curl(guarded, "/api/tickets", "-X", "POST", "-H", f"@{header}")[0] == 200


@pytest.mark.parametrize(
    "smuggled",
    [
        "X_Api_Key: {key}",
        "X-Api-Key : {key}",
        "X-Other: a\r\n X-Api-Key: {key}",
        "Authorization: Bearer {key}, Bearer x",
        "Proxy-Authorization: Bearer {key}",
    ],
)
def test_a_key_in_no_proper_header_opens_nothing(guarded: Guarded, keys: dict[str, str], smuggled: str) -> None:
    assert curl(guarded, "/api/avatars", "-H", smuggled.format(key=keys["alice"]))[0] in {400, 401}
