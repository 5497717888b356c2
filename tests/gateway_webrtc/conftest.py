"""Real services before a small avatar, and before the demo, whose pictures are like those of a film."""

from __future__ import annotations

from pathlib import Path

import pytest

from avatar_tools.demo import build_demo

from ..end_to_end.avatars import write_avatar
from ..gateway_http.conftest import compositing

__all__ = ["compositing"]


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of both; read only."""
    root = tmp_path_factory.mktemp("models")
    write_avatar(root, "small")
    build_demo(root)
    return root
