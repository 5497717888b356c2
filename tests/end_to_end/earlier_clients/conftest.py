"""One process with the earlier servers' gRPC, and clients that know the wire contract and nothing of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shared_proto import compositing_pb2
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from ...violations import violations_of
from ..avatars import wide_rect, write_avatar
from ..conftest import CALL_S, CHANNEL_OPTIONS
from ..contract_client import ContractClient
from ..processes import Service, running_all
from ..stored_rows import rows

Code = grpc.StatusCode
FRAMES = 21


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avatar with the features of its clip, one without, one that a test may replace, one whose network is missing."""
    root = tmp_path_factory.mktemp("older")
    write_avatar(root, "heard", frames=FRAMES, features=rows())
    write_avatar(root, "silent")
    write_avatar(root, "wide", features=rows(5), rects=wide_rect)
    write_avatar(root, "changing", features=rows(5))
    broken = write_avatar(root, "broken")
    broken.network_path.unlink()
    return root


@pytest.fixture(scope="session")
def services(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """Compositing, inference, monolithic: one process."""
    with running_all(f"models_root={root}", log=tmp_path_factory.mktemp("log") / "all") as services:
        yield services


@pytest.fixture(scope="session")
def channels(services: list[Service]) -> Iterator[list[grpc.Channel]]:
    channels = [grpc.insecure_channel(service.address, CHANNEL_OPTIONS) for service in services]
    yield channels
    for channel in channels:
        channel.close()


@pytest.fixture(scope="session")
def pictures(channels: list[grpc.Channel]) -> CompositingServiceStub:
    """The face that new clients call."""
    return CompositingServiceStub(channels[0])


@pytest.fixture(scope="session")
def monolithic(channels: list[grpc.Channel]) -> ContractClient:
    return ContractClient(channels[2], "monolithic.MonolithicService")


@pytest.fixture(scope="session")
def direct(channels: list[grpc.Channel]) -> ContractClient:
    return ContractClient(channels[1], "optimized_lipsyncsrv.OptimizedLipSyncService")


def composited(pictures: CompositingServiceStub, **fields: Any) -> list[bytes]:
    request = compositing_pb2.CompositeBatchRequest(**fields)
    return list(pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames)


def refusal(call: Callable[[], Any]) -> tuple[Code, set[str], str]:
    """The status, the fields that it names, and its text."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    fields = {field for field, _ in violations_of(caught.value)}
    return caught.value.code(), fields, caught.value.details() or ""
