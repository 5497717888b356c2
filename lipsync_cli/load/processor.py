"""The processor time of this process, and of servers on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from lipsync_cli.failures import CliError
from lipsync_cli.load.arrivals import Spread

_TICK_S = 0.01


@dataclass
class Used:
    """The seconds of processor time, user and kernel together, that each process used in a block."""

    tester_s: float = 0.0
    servers_s: dict[int, float] = field(default_factory=dict)
    """By process id."""


@contextmanager
def measured(pids: Sequence[int]) -> Iterator[Used]:
    """Measures a block. Raises CliError for a process that is not there at its start or end."""
    used = Used()
    tester = psutil.Process()
    before_s = {pid: _seconds(pid) for pid in pids}
    own_s = _of(tester)
    yield used
    used.tester_s = _of(tester) - own_s
    used.servers_s = {pid: _seconds(pid) - before_s[pid] for pid in pids}


class OwnDelay:
    """The delay of what this process's event loop runs: arrivals are noted as much too late. Use it as a context."""

    def __init__(self) -> None:
        self._late_ms: list[float] = []

    async def __aenter__(self) -> OwnDelay:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    def spread(self) -> Spread | None:
        """Returns the delays so far."""
        return Spread.of(self._late_ms)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self._late_ms.append((loop.time() - due_s) * 1000)


def _seconds(pid: int) -> float:
    try:
        return _of(psutil.Process(pid))
    except psutil.NoSuchProcess:
        raise CliError(f"no process has the id {pid}") from None
    except psutil.AccessDenied:
        raise CliError(f"the processor time of process {pid} may not be read") from None


def _of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
