"""The gateway follows its certificates towards the compositing service, as that one's authority changes."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from ..end_to_end.processes import free_port, running, until
from ..gateway_earlier.raw_socket import RawSocket
from .authority import Authority, put


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=60) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def answer_to_an_earlier_client(address: str) -> str:
    """Its answer on an avatar that is not there."""
    with RawSocket(address, "/ws") as socket:
        socket.send(json.dumps({"type": "get_metadata", "model_name": "nobody"}))
        return str(json.loads(socket.receive())["error"])


def compositing(authority: Authority, port: int) -> list[str]:
    pair = authority.pair("compositing")
    files = {"certificate_file": pair.certificate, "key_file": pair.key, "client_ca_file": authority.certificate}
    return [f"server.port=127.0.0.1:{port}", *(f"tls.{key}={path}" for key, path in files.items())]


def test_new_connections_have_renewed_certificates(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    in_use = Authority(tmp_path / "in-use")
    shutil.copytree(authority.folder, in_use.folder)
    own, port, models = in_use.pair("client"), free_port(), f"models_root={tmp_path}"
    files = {"ca_file": in_use.certificate, "certificate_file": own.certificate, "key_file": own.key, "reload_seconds": 0.1}
    keys = [f"compositing_server.tls.{key}={value}" for key, value in files.items()]
    with running("gateway", f"compositing_server.url=localhost:{port}", *keys, log=tmp_path / "gateway") as gateway:
        with running("compositing", models, *compositing(authority, port), log=tmp_path / "one"):
            until(lambda: is_ready(gateway.address))
            known = answer_to_an_earlier_client(gateway.address)
            assert "nobody" in known
        until(lambda: not is_ready(gateway.address))
        for name in ("ca.crt", "client.crt", "client.key"):
            put(stranger.folder / name, in_use.folder / name)
        until(lambda: "compositing_server.tls: renewed from changed files" in gateway.log.read_text())
        with running("compositing", models, *compositing(stranger, port), log=tmp_path / "two"):
            until(lambda: is_ready(gateway.address))
            assert answer_to_an_earlier_client(gateway.address) == known
