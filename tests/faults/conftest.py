"""Services that attacks and faults are tried on, and callers who must not notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avatar_kit.timeline import IdleMouth
from shared_proto import compositing_pb2 as pb

from ..end_to_end.avatars import write_avatar
from ..end_to_end.callers import SteadyCaller
from ..end_to_end.conftest import Duo

SOUND = np.full(1280, 0.1, "<f4").tobytes()

NOWHERE = "inference_server.url=127.0.0.1:1"


def request_of(model_id: str = "small", frames: int = 2, *, idle: bool = False) -> pb.CompositeBatchRequest:
    """A good request, unless its id or its number of frames is bad. `idle`: one that needs no inference service."""
    if idle:
        return pb.CompositeBatchRequest(model_id=model_id, batch_size=frames, idle=True)
    return pb.CompositeBatchRequest(model_id=model_id, batch_size=frames, raw_audio=SOUND)


IDLE = request_of("calm", idle=True)


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small avatars; read only."""
    root = tmp_path_factory.mktemp("models")
    write_avatar(root, "small")
    write_avatar(root, "other", seed=50, frames=3)
    write_avatar(root, "calm", idle_mouth=IdleMouth.STORED)
    return root


@pytest.fixture
def steady(strict: Duo) -> Iterator[SteadyCaller]:
    """An innocent caller of the module's services, who gets the same bytes all the while."""
    with SteadyCaller(strict.compositing.address, request_of()) as caller:
        caller.wait_for_a_call()
        yield caller
        caller.wait_for_a_call()
