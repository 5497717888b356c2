"""The whole gateway with all services in one process, before a folder of avatars, and clients of two kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from ..end_to_end.avatars import write_avatar
from ..end_to_end.conftest import CHANNEL_OPTIONS
from ..end_to_end.contract_client import ContractClient
from ..end_to_end.stored_rows import rows
from .gateway import Gateway, running_gateway

FRAMES = 21


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small avatar with the features of its clip, and one without."""
    root = tmp_path_factory.mktemp("earlier")
    write_avatar(root, "heard", frames=FRAMES, features=rows())
    write_avatar(root, "silent")
    return root


@pytest.fixture(scope="session")
def gateway(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Shared by all tests that only ask."""
    # Pages of that time lie on servers of their own.
    origins = 'guard.allowed_origins=["*"]'
    with running_gateway(root, tmp_path_factory.mktemp("log") / "all", origins) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def direct(gateway: Gateway) -> Iterator[ContractClient]:
    """The gRPC face of the earlier server."""
    with grpc.insecure_channel(gateway.compositing.address, CHANNEL_OPTIONS) as channel:
        yield ContractClient(channel, "optimized_lipsyncsrv.OptimizedLipSyncService")
