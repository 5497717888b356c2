"""The demo's avatar, served by one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avatar_tools.demo import build_demo
from lipsync_cli.processes import ServiceProcess, serve_command


@contextmanager
def demo_served(folder: Path) -> Iterator[str]:
    """Builds the demo in `folder`, serves it there without a gateway, and yields the address of the compositing service.

    Raises CliError when the process does not start.
    """
    build_demo(folder / "models")
    ports = [f"server.{port}=127.0.0.1:0" for port in ("port", "compositing_port", "inference_port")]
    settings = [*ports, "metrics.port=127.0.0.1:0", f"models_root={folder / 'models'}", "gateway.enabled=false"]
    with ServiceProcess("compositing", serve_command("all", settings), log=folder / "all.log") as services:
        yield services.wait_ready()
