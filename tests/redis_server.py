"""A real redis-server on a port of its own, which can be stopped, killed and started again, and can be told the time."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis

from .end_to_end.processes import free_port
from .programs import program

START_S = 60
_US = 1_000_000


@dataclass
class ToldTime:
    """The time of a server, which passes only when a test says so."""

    path: Path
    us: int = 1_800_000_000 * _US

    def __post_init__(self) -> None:
        self.advance(0)

    def advance(self, seconds: float) -> None:
        self.us += round(seconds * _US)
        new = self.path.with_suffix(".new")
        new.write_text(str(self.us))
        new.replace(self.path)

    def environment(self, library: Path) -> dict[str, str]:
        return {"LD_PRELOAD": str(library), "TOLD_TIME": str(self.path)}


@dataclass
class RedisServer:
    """The server's process. It keeps nothing on disk."""

    folder: Path
    options: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        options = ("--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", str(self.folder), *self.options)
        path = self.folder / "redis.log"
        with path.open("wb") as log:
            self.process = subprocess.Popen(
                [program("redis-server", "redis-server"), *options],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while b"Ready to accept connections" not in path.read_bytes():
            assert self.process.poll() is None, path.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it as `kill -9` does: all that it knew is gone."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait()

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        with redis.Redis(port=self.port) as client:
            yield client


@contextmanager
def running_redis(folder: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[RedisServer]:
    """A server until the block is left."""
    folder.mkdir(exist_ok=True)
    server = RedisServer(folder, options, environment or {})
    try:
        server.start()
        yield server
    finally:
        server.stop()


def told_time_library(folder: Path) -> Path:
    """Compiles what lets a server have the time that it is told."""
    library = folder / "told_time.so"
    source = Path(__file__).with_name("told_time.c")
    subprocess.run([program("gcc", "gcc"), "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library
