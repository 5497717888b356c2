"""The doors with TLS, tried by `openssl s_client`: closed, half open and open, and by handshakes that stop in the middle."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

import pytest

from ..end_to_end.avatars import write_avatar
from ..end_to_end.processes import running_with_gateway
from ..faults.http2 import PREFACE, SETTINGS, frame
from ..programs import program
from .authority import DAY, Authority, Pair

PATIENCE_S = 60
# The words of openssl for a server that refuses. Its own refusal to begin has others.
REFUSALS = ("alert", "unexpected eof", "errno=104", "errno=32")
# The first record of a handshake, with a fifth of what it announces.
HALF_A_GREETING = bytes.fromhex("1603010200010001fc0303") + bytes(91)


class Door(NamedTuple):
    """A port with TLS that asks for certificates, what a caller says there first, and how the answer begins."""

    address: str
    words: bytes
    answer: bytes


class Heard(NamedTuple):
    """Output of openssl: the server's words, and its own."""

    words: bytes
    messages: str

    @property
    def is_refused(self) -> bool:
        """True where the server has ended the connection without a word."""
        return not self.words and any(each in self.messages for each in REFUSALS)


@pytest.fixture(scope="module")
def doors(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    """Those of everything in one process."""
    folder, pair = tmp_path_factory.mktemp("doors"), authority.pair("compositing")
    write_avatar(folder, "small")
    tls = (f"tls.certificate_file={pair.certificate}", f"tls.key_file={pair.key}", f"tls.client_ca_file={authority.certificate}")
    with running_with_gateway(f"models_root={folder}", *tls, log=folder / "log") as (gateway, compositing):
        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        yield {
            "gRPC": Door(compositing.address, PREFACE + frame(SETTINGS, 0, 0), b"\x00\x00"),
            "HTTP": Door(gateway.address, request, b"HTTP/1.1 200 "),
        }


@pytest.fixture(params=["gRPC", "HTTP"])
def door(doors: dict[str, Door], request: pytest.FixtureRequest) -> Door:
    return doors[request.param]


def heard(door: Door, authority: Authority, pair: Pair | None, *options: str) -> Heard:
    """Calls with these options, until the first words have come or the connection has ended."""
    command = [program("openssl", "openssl"), "s_client", "-quiet", "-connect", door.address, "-servername", "localhost"]
    command += ["-CAfile", str(authority.certificate), "-verify_return_error", "-alpn", "h2,http/1.1", *options]
    command += ["-cert", str(pair.certificate), "-key", str(pair.key)] if pair else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        with suppress(BrokenPipeError):
            process.stdin.write(door.words)
            process.stdin.flush()
        words = os.read(process.stdout.fileno(), 4096)
        process.kill()
        messages = process.stderr.read().decode()
        with suppress(BrokenPipeError):
            process.stdin.close()
    return Heard(words, messages)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_an_open_door(door: Door, authority: Authority, version: str) -> None:
    assert heard(door, authority, authority.pair("client"), version).words.startswith(door.answer)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_closed_door(door: Door, authority: Authority, stranger: Authority, issue: Callable[..., Pair], version: str) -> None:
    for pair in (None, stranger.pair("client"), issue(end=-DAY), issue(start=DAY, end=2 * DAY)):
        told = heard(door, authority, pair, version)
        assert told.is_refused, told


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_a_door_for_earlier_versions_is_closed(door: Door, authority: Authority, version: str) -> None:
    told = heard(door, authority, authority.pair("client"), version, "-cipher", "ALL:@SECLEVEL=0")
    assert told.is_refused, told


def test_a_server_is_known_by_its_certificate(door: Door, authority: Authority, stranger: Authority) -> None:
    assert "verify error" in heard(door, stranger, authority.pair("client")).messages
    wrong = heard(door, authority, authority.pair("client"), "-verify_hostname", "elsewhere.example")
    assert "hostname mismatch" in wrong.messages.lower()
    assert wrong.words == b""


def test_handshakes_that_stop_in_the_middle_are_dropped_and_others_are_served(
    doors: dict[str, Door], authority: Authority
) -> None:
    pair = authority.pair("client")
    with ExitStack() as stack:
        stalled = []
        for door in doors.values():
            host, _, port = door.address.rpartition(":")
            for _ in range(40):
                connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
                connection.sendall(HALF_A_GREETING)
                stalled.append(connection)
        for door in doors.values():
            assert heard(door, authority, pair).words.startswith(door.answer)
        for connection in stalled:
            with suppress(ConnectionError):
                while connection.recv(4096):
                    pass  # a farewell, perhaps
        for door in doors.values():
            assert heard(door, authority, pair).words.startswith(door.answer)
