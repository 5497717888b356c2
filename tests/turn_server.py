"""A real TURN server, coturn, on a port of its own, which knows passwords by a secret that it shares with the gateway."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .end_to_end.processes import free_port
from .programs import program

START_S = 60
_SETTINGS = """
listening-ip=127.0.0.1
relay-ip=127.0.0.1
listening-port={port}
allow-loopback-peers
use-auth-secret
static-auth-secret={secret}
realm=tests.example
no-cli
no-tls
no-dtls
log-file=stdout
simple-log
verbose
pidfile={folder}/turnserver.pid
userdb={folder}/turndb
"""


@dataclass(frozen=True)
class TurnServer:
    """The server's process."""

    url: str
    secret_file: Path
    log: Path

    def allocations(self) -> int:
        """The number of addresses that it has lent to those who know a password."""
        return self.log.read_text(errors="replace").count("ALLOCATE processed, success")


@contextmanager
def running_turn(folder: Path) -> Iterator[TurnServer]:
    """A server until the block is left."""
    port, secret = free_port(), secrets.token_hex(16)
    (folder / "secret").write_text(secret)
    config, log = folder / "turnserver.conf", folder / "turnserver.log"
    config.write_text(_SETTINGS.format(port=port, secret=secret, folder=folder))
    with log.open("wb") as output:
        process = subprocess.Popen([program("turnserver", "coturn"), "-c", str(config)], stdout=output, stderr=output, cwd=folder)
    try:
        deadline = time.monotonic() + START_S
        while b"UDP listener opened on" not in log.read_bytes():
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            time.sleep(0.05)
        yield TurnServer(f"turn:127.0.0.1:{port}?transport=udp", folder / "secret", log)
    finally:
        process.terminate()
        process.wait(START_S)
