"""One `lipsync serve all` for all tests of adapters that only ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..end_to_end.processes import free_port, running_all
from .served import build_avatars


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the avatars "demo" and "small"."""
    root = tmp_path_factory.mktemp("models")
    build_avatars(root)
    return root


@pytest.fixture(scope="session")
def server(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of its compositing service."""
    with running_all(f"models_root={models_root}", log=tmp_path_factory.mktemp("log") / "all") as (compositing, *_):
        yield compositing.address


@pytest.fixture
def place(models_root: Path) -> tuple[str, str]:
    """Settings of a service that can be started twice at one address."""
    return f"models_root={models_root}", f"server.compositing_port=127.0.0.1:{free_port()}"
