"""Everything in one process before small and exact avatars, with the gateway, shared by tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..end_to_end.avatars import write_avatar
from ..end_to_end.processes import Service, running_with_gateway


@dataclass(frozen=True)
class Stack:
    """A gateway and the compositing service behind it, which are one process."""

    gateway: Service
    compositing: Service

    @property
    def url(self) -> str:
        return f"http://{self.gateway.address}"


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small avatars; read only."""
    root = tmp_path_factory.mktemp("models")
    write_avatar(root, "small")
    write_avatar(root, "other", seed=50, frames=3)
    return root


@pytest.fixture(scope="session")
def stack(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = f"models_root={models_root}", f"audio_encoder_path={models_root / 'none.onnx'}", "limits.admit_sessions=all"
    with running_with_gateway(*settings, log=tmp_path_factory.mktemp("stack") / "all") as (gateway, compositing):
        yield Stack(gateway, compositing)
