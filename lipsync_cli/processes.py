"""Starts services as child processes and makes sure that none is left behind.

Stopping sends SIGTERM, then SIGKILL. If this process dies without stopping them, the services end by themselves, because their
standard input closes.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from lipsync_cli.failures import CliError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0
LOG_LINES = 15
_HOST = "127.0.0.1"
LOOPBACK = (f"server.port={_HOST}:0", f"metrics.port={_HOST}:0")


def serve_command(name: str, overrides: Sequence[str], *, python: str = sys.executable) -> list[str]:
    """Returns the command line of a service that ends with this process."""
    settings = [part for override in overrides for part in ("--set", override)]
    return [python, "-m", "lipsync_cli", "serve", name, "--until-stdin-closes", *settings]


class ServiceProcess:
    """A service as a child process; use it as a context manager. The file `log` gets its stderr."""

    def __init__(self, name: str, command: Sequence[str], *, log: Path, stop_timeout_s: float = STOP_TIMEOUT_S) -> None:
        self.name = name
        self._log = log
        self._stop_timeout_s = stop_timeout_s
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C must reach this process alone, which then stops the services
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(self._stop_timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """Waits for the line `ready <name> <host>:<port> ...`; returns host:port. Raises CliError with the end of the log."""
        line = self._first_line(timeout_s)
        words = line.split()
        if words[:2] != ["ready", self.name] or len(words) < 3:
            raise CliError(f"the {self.name} service printed {line!r} instead of its ready line{self._log_end()}")
        return words[2]

    def _first_line(self, timeout_s: float) -> str:
        output = b""
        deadline = time.monotonic() + timeout_s
        stdout = cast("IO[bytes]", self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in output:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise CliError(f"the {self.name} service was not ready within {timeout_s:g} s{self._log_end()}")
                received = os.read(stdout.fileno(), 4096)
                if not received:
                    raise CliError(f"the {self.name} service ended while it started{self._log_end()}")
                output += received
        return output.partition(b"\n")[0].decode(errors="replace")

    def _log_end(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return ":\n  " + "\n  ".join(lines) if lines else "; it logged nothing"


@dataclass(frozen=True)
class Services:
    """Both services, ready, and where each listens; `address` is that of the compositing service."""

    address: str
    inference_address: str
    inference: ServiceProcess
    compositing: ServiceProcess


@contextmanager
def both_services(
    models_root: Path, *, inference: Sequence[str] = (), compositing: Sequence[str] = (), python: str = sys.executable
) -> Iterator[Services]:
    """Starts both at once on free ports of loopback, waits until they are ready, and ends them after the block.

    `python`: the program that runs them.

    Raises CliError when one does not start.
    """
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lipsync-")))

        def started(name: str, *settings: str) -> ServiceProcess:
            command = serve_command(name, [f"models_root={models_root}", *LOOPBACK, *settings], python=python)
            return stack.enter_context(ServiceProcess(name, command, log=logs / f"{name}.log"))

        with _kept_port() as inference_address:
            first = started("inference", f"server.port={inference_address}", *inference)
            second = started("compositing", f"inference_server.url={inference_address}", *compositing)
            first.wait_ready()
            address = second.wait_ready()
        yield Services(address, inference_address, first, second)


@contextmanager
def _kept_port() -> Iterator[str]:
    """Keeps a port of loopback for a service that this process starts: only one that reuses addresses can listen there."""
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind((_HOST, 0))
        yield f"{_HOST}:{keeper.getsockname()[1]}"


def end_with_stdin() -> None:
    """Sends SIGTERM to this process once its standard input closes, that is, when its parent is gone."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stdin-watch", daemon=True).start()
