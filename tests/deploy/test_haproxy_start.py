"""HAProxy as its pods start it: it takes renewed certificates, and ends when it is asked to."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.processes import free_port, until

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


def write_certificates(folder: Path, name: str) -> None:
    """ca.crt and tls-combined.pem in the folder, as cert-manager would mount them."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    key, certificate = folder.with_suffix(".key"), folder.with_suffix(".crt")
    command += ["-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "ca.crt").write_bytes(certificate.read_bytes())
    (folder / "tls-combined.pem").write_bytes(certificate.read_bytes() + key.read_bytes())


def presented(port: int) -> str | None:
    """The name in the certificate of whoever listens there; None while nobody does."""
    try:
        certificate = ssl.get_server_certificate(("127.0.0.1", port), timeout=5)
    except OSError:
        return None
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-subject"], input=certificate, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().rpartition("=")[2].strip()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    folder = tmp_path / "tls"
    folder.mkdir()
    write_certificates(folder, "first")
    return folder


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(params=SHELLS)
def process(
    request: pytest.FixtureRequest, haproxy: str, repository: Path, certificates: Path, tmp_path: Path, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    """The front's HAProxy behind start.sh, in each shell that is here."""
    base = repository / "deploy/kubernetes/base/haproxy"
    text = (base / "front.cfg").read_text().replace("timeout http-request 10s", "timeout http-request 500ms")
    for folder in ("/etc/lipsync-tls", "/etc/lipsync-callers-tls"):
        text = text.replace(folder, str(certificates))
    text = re.sub(r"bind :(\d+)", lambda door: f"bind 127.0.0.1:{port if door[1] == '50052' else free_port()}", text)
    config = tmp_path / "haproxy.cfg"
    config.write_text(text)
    shell = [request.param, "sh"] if request.param == "busybox" else [request.param]
    environ = {
        "PATH": f"{os.environ['PATH']}:{Path(haproxy).parent}",
        "POD_NAMESPACE": "lipsync",
        "CLUSTER_DOMAIN": "cluster.invalid",
        "LIPSYNC_TLS": "1",
        "LOOK_SECONDS": "0.1",
    }
    with (tmp_path / "log").open("wb") as log:
        started = subprocess.Popen([*shell, base / "start.sh", config, certificates], env=environ, stdout=log, stderr=log)
    try:
        until(lambda: presented(port) == "first" or started.poll() is not None)
        assert started.poll() is None, (tmp_path / "log").read_text()
        yield started
    finally:
        if started.poll() is None:
            started.terminate()
        started.wait(60)


def test_renewed_certificates_are_shown_and_broken_ones_are_not(
    process: subprocess.Popen[bytes], certificates: Path, tmp_path: Path, port: int
) -> None:
    (certificates / "tls-combined.pem").write_text("no certificate")
    until(lambda: "cannot be used" in (tmp_path / "log").read_text())
    assert presented(port) == "first"
    write_certificates(certificates, "second")
    until(lambda: presented(port) == "second")
    assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_it_ends_well_when_it_is_asked_to(process: subprocess.Popen[bytes], port: int, number: signal.Signals) -> None:
    process.send_signal(number)
    assert process.wait(60) == 0
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass


def talk(port: int, protocols: list[str]) -> bytes:
    """Sends a request in HTTP/1.1 over TLS; returns the answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as tls:
        tls.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        try:
            return tls.recv(4096)
        except OSError:
            return b""


def test_callers_get_nothing_but_http_2(process: subprocess.Popen[bytes], port: int) -> None:
    assert process.poll() is None
    assert not any(answer.startswith(b"HTTP/1") for answer in (talk(port, []), talk(port, ["http/1.1"])))


def test_a_connection_between_two_calls_is_left_alone(process: subprocess.Popen[bytes], port: int) -> None:
    """For longer than a request may take to arrive."""
    assert process.poll() is None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    settings, request = b"\0\0\0\4\0" + bytes(4), b"\0\0\6\1\5\0\0\0\1\x83\x87\x84\x41\1a"
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as tls:
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + request)
        received = b""
        while b"503 Service Unavailable" not in received:  # there is no pod
            more = tls.recv(4096)
            assert more
            received += more
        tls.settimeout(1.5)
        with pytest.raises(TimeoutError):
            tls.recv(4096)
