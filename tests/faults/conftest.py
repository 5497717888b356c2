"""Services that attacks and faults are tried on, and callers who must not notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared_proto import compositing_pb2 as pb

from ..end_to_end.avatars import write_avatar
from ..end_to_end.callers import SteadyCaller
from ..end_to_end.conftest import Duo

SOUND = np.full(1280, 0.1, "<f4").tobytes()


def request_of(model_id: str = "small", frames: int = 2) -> pb.CompositeBatchRequest:
    """A good request."""
    return pb.CompositeBatchRequest(model_id=model_id, batch_size=frames, raw_audio=SOUND)


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small avatars; read only."""
    root = tmp_path_factory.mktemp("models")
    write_avatar(root, "small")
    write_avatar(root, "other", seed=50, frames=3)
    return root


@pytest.fixture
def steady(strict: Duo) -> Iterator[SteadyCaller]:
    """An innocent caller of the module's services, who gets the same bytes all the while."""
    with SteadyCaller(strict.compositing.address, request_of()) as caller:
        caller.wait_for_a_call()
        yield caller
        caller.wait_for_a_call()
