"""Starts services as processes of their own and makes sure that none is left behind.

Stopping sends SIGTERM, then SIGKILL. Should this process die without stopping them, the services end by themselves: their
standard input closes, and they were started to serve no longer than that.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from lipsync_cli.failures import CliError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0
LOG_LINES = 15


def serve_command(name: str, overrides: Sequence[str]) -> list[str]:
    """The command line of a service that lives no longer than this process."""
    settings = [part for override in overrides for part in ("--set", override)]
    return [sys.executable, "-m", "lipsync_cli", "serve", name, "--until-stdin-closes", *settings]


class ServiceProcess:
    """A service as a child process; use it as a context manager. `log` is the file that receives what it writes to stderr."""

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
                start_new_session=True,  # Ctrl-C is for us; the services end when we say so
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
        """Of the child."""
        return self._process.pid

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """Waits for the line `ready <name> <host>:<port> ...` and returns its host:port. Raises CliError with the log's end."""
        line = self._first_line(timeout_s)
        words = line.split()
        if words[:2] != ["ready", self.name] or len(words) < 3:
            raise CliError(f"the {self.name} service said {line!r} in place of its ready line{self._log_end()}")
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


def end_with_stdin() -> None:
    """Ends this process as SIGTERM would when its standard input closes, that is, when its parent is gone."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stdin-watch", daemon=True).start()
