"""Tokens at services that run, with the issuer's keys in a file and at an address. openssl makes keys and signs, curl asks."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from lipsync_cli.keys import revoke_caller
from lipsync_client import Client, LipsyncError

from ..end_to_end.processes import Service, running_with_gateway, until
from ..programs import program
from .session_frames import next_frame
from .test_curl import WEBSOCKET

ISSUER, AUDIENCE = "https://login.example.com/", "lipsync"
Code = grpc.StatusCode


class Signer:
    """A key of openssl's, and tokens that are signed with it."""

    def __init__(self, folder: Path, kid: str) -> None:
        self.kid, self._key = kid, folder / f"{kid}.pem"
        openssl("genrsa", "-out", str(self._key), "2048")

    @property
    def public(self) -> dict[str, str]:
        """Returns it as a JWK."""
        said = openssl("rsa", "-in", str(self._key), "-noout", "-modulus").decode()
        modulus = bytes.fromhex(said.strip().partition("=")[2])
        return {"kty": "RSA", "kid": self.kid, "use": "sig", "n": coded(modulus), "e": coded(b"\x01\x00\x01")}

    def token(self, caller: str, scope: str, *, seconds: int = 600, **more: Any) -> str:
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": caller, "exp": int(time.time()) + seconds, "scope": scope, **more}
        header = {"alg": "RS256", "typ": "JWT", "kid": self.kid}
        text = f"{coded(json.dumps(header).encode())}.{coded(json.dumps(claims).encode())}"
        return f"{text}.{coded(openssl('dgst', '-sha256', '-sign', str(self._key), given=text.encode()))}"


@dataclass(frozen=True)
class Services:
    gateway: Service
    compositing: Service
    signer: Signer
    stranger: Signer
    keys: Path

    def curl(self, path: str, token: str, *arguments: str) -> int:
        """The status of an answer. The token comes from curl's standard input, which no list of processes shows."""
        command = [program("curl", "curl"), "--silent", "--noproxy", "*", "--max-time", "30", "--config", "-", *arguments]
        config = f'header = "Authorization: Bearer {token}"\n' if token else ""
        written = ("--output", "/dev/null", "--write-out", "%{http_code}", f"http://{self.gateway.address}{path}")
        done = subprocess.run([*command, *written], input=config.encode(), capture_output=True, check=False)
        return int(done.stdout)


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run([program("openssl", "openssl"), *arguments], input=given, capture_output=True, check=True).stdout


def coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def served(content: str) -> Iterator[str]:
    """The address of an issuer's keys on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/jwks.json"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module", params=["jwks_file", "jwks_url"])
def services(request: pytest.FixtureRequest, models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("tokens")
    signer, stranger = Signer(folder, "current"), Signer(folder, "strange")
    content = json.dumps({"keys": [signer.public]})
    (folder / "jwks.json").write_text(content)
    with served(content) as url:
        source = {"jwks_file": folder / "jwks.json", "jwks_url": url}[request.param]
        settings = (
            f"models_root={models_root}",
            f"audio_encoder_path={models_root / 'none.onnx'}",
            f"auth.keys_file={folder / 'keys.json'}",
            "auth.reload_seconds=0.1",
            f"auth.jwt.issuer={ISSUER}",
            f"auth.jwt.audience={AUDIENCE}",
            f"auth.jwt.{request.param}={source}",
            "auth.jwt.leeway_seconds=0",
        )
        with running_with_gateway(*settings, log=folder / "log") as (gateway, compositing):
            yield Services(gateway, compositing, signer, stranger, folder / "keys.json")


def code_of(client: Client) -> grpc.StatusCode:
    """The status of a list of avatars."""
    try:
        client.list_avatars()
    except LipsyncError as error:
        return error.code
    return Code.OK


def test_closed_half_open_and_open_doors_of_the_gateway(services: Services) -> None:
    reader, speaker = services.signer.token("alice", "read"), services.signer.token("alice", "openid infer read")
    closed = {
        "none": "",
        "of a stranger": services.stranger.token("alice", "infer read"),
        "expired": services.signer.token("alice", "infer read", seconds=-60),
        "for others": services.signer.token("alice", "infer read", aud="another"),
        "changed": speaker[:-8] + ("A" * 8 if speaker[-8:] != "A" * 8 else "B" * 8),
        "unsigned": speaker.rpartition(".")[0] + ".",
    }
    for name, token in closed.items():
        assert services.curl("/api/avatars", token) == 401, name
        assert services.curl("/api/tickets", token, "-X", "POST") == 401, name
        assert services.curl("/", token) == 200, name
    assert services.curl("/api/avatars", reader) == 200
    assert services.curl("/api/tickets", reader, "-X", "POST") == 403
    assert services.curl("/ws", reader, *WEBSOCKET) == 403
    assert services.curl("/api/tickets", speaker, "-X", "POST") == 200


def test_closed_half_open_and_open_doors_of_compositing(services: Services) -> None:
    for token, listed, loaded in (
        ("", Code.UNAUTHENTICATED, Code.UNAUTHENTICATED),
        (services.stranger.token("alice", "infer read admin"), Code.UNAUTHENTICATED, Code.UNAUTHENTICATED),
        (services.signer.token("alice", "infer"), Code.PERMISSION_DENIED, Code.PERMISSION_DENIED),
        (services.signer.token("alice", "read"), Code.OK, Code.PERMISSION_DENIED),
        (services.signer.token("alice", "read admin", avatars=["other"]), Code.OK, Code.PERMISSION_DENIED),
        (services.signer.token("alice", "read admin"), Code.OK, Code.OK),
    ):
        with Client(services.compositing.address, api_key=token or None) as client:
            assert code_of(client) is listed
            try:
                client.load("small")
            except LipsyncError as error:
                code = error.code
            else:
                code = Code.OK
            assert code is loaded


def test_a_token_that_expires_ends_no_session_and_a_revoked_caller_has_none(services: Services) -> None:
    token = services.signer.token("carol", "infer read", seconds=20)
    with Client(services.compositing.address, api_key=token) as client, client.session("small") as session:
        events = iter(session)
        next_frame(events)
        until(lambda: code_of(client) is Code.UNAUTHENTICATED)
        for _ in range(30):
            next_frame(events)
        revoke_caller(services.keys, "carol")
        with pytest.raises(LipsyncError) as caught:
            for _ in events:
                pass
        assert caught.value.code is Code.UNAUTHENTICATED
    with Client(services.compositing.address, api_key=services.signer.token("carol", "infer read")) as client:
        assert code_of(client) is Code.UNAUTHENTICATED


def test_limits_in_a_token_hold(services: Services) -> None:
    token = services.signer.token("dave", "infer", limits={"sessions": 1})
    with Client(services.compositing.address, api_key=token) as client, client.session("small") as session:
        next(iter(session))
        with pytest.raises(LipsyncError) as caught, client.session("other", admission_timeout=0) as second:
            next(iter(second))
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
