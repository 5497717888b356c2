"""Runs both services as processes on loopback, as a user starts them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from lipsync_cli.processes import ServiceProcess, serve_command

LOOPBACK = ("server.port=127.0.0.1:0", "metrics.port=127.0.0.1:0")


@dataclass(frozen=True)
class Services:
    """Where they listen, the compositing service first, and both processes."""

    address: str
    inference_address: str
    inference: psutil.Process
    compositing: psutil.Process


@contextmanager
def both_services(models_root: Path, *, inference: Sequence[str] = (), compositing: Sequence[str] = ()) -> Iterator[Services]:
    """Starts both with these settings and waits until they are ready. They end with the block."""
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lipsync-bench-")))
        common = (f"models_root={models_root}", *LOOPBACK)
        first = stack.enter_context(_process("inference", (*common, *inference), logs))
        inference_address = first.wait_ready()
        url = f"inference_server.url={inference_address}"
        second = stack.enter_context(_process("compositing", (*common, url, *compositing), logs))
        yield Services(second.wait_ready(), inference_address, psutil.Process(first.pid), psutil.Process(second.pid))


def _process(name: str, overrides: Sequence[str], logs: Path) -> ServiceProcess:
    return ServiceProcess(name, serve_command(name, overrides), log=logs / f"{name}.log")


def cpu_seconds(process: psutil.Process) -> float:
    """Returns the processor time that the process has used on all cores, in the kernel too."""
    times = process.cpu_times()
    return float(times.user + times.system)
