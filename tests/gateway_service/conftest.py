"""Everything in one process before small and exact avatars, with the gateway, and gateways of single tests before the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from gateway_service.http_face import HttpServer
from gateway_service.service import gateway_service
from gateway_service.settings import GatewaySettings
from service_kit.life import RunningService
from service_kit.settings import load_settings
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from ..end_to_end.avatars import write_avatar
from ..end_to_end.processes import Service, running_with_gateway
from ..sounds import speechlike


@dataclass(frozen=True)
class Stack:
    """A gateway and the compositing service behind it, which are one process."""

    gateway: Service
    compositing: Service
    stub: CompositingServiceStub

    @property
    def url(self) -> str:
        return f"http://{self.gateway.address}"


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small avatars; read only."""
    root = tmp_path_factory.mktemp("models")
    write_avatar(root, "small")
    write_avatar(root, "demo", seed=9)
    write_avatar(root, "other", seed=50, frames=3)
    return root


@pytest.fixture(scope="session")
def stack(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = f"models_root={models_root}", f"audio_encoder_path={models_root / 'none.onnx'}", "limits.admit_sessions=all"
    with (
        running_with_gateway(*settings, log=tmp_path_factory.mktemp("stack") / "all") as (gateway, compositing),
        grpc.insecure_channel(compositing.address) as channel,
    ):
        yield Stack(gateway, compositing, CompositingServiceStub(channel))


@asynccontextmanager
async def gateway(target: str, *overrides: str) -> AsyncIterator[RunningService[HttpServer]]:
    """A gateway in this process, before the compositing service at `target`."""
    given = ("server.port=127.0.0.1:0", "metrics.port=127.0.0.1:0", "server.drain_seconds=0", f"compositing_server.url={target}")
    settings = load_settings(GatewaySettings, config=None, overrides=[*given, *overrides], environ={})
    async with RunningService(gateway_service(settings)) as running:
        yield running


def url_of(running: RunningService[HttpServer]) -> str:
    return f"http://{running.address.reachable}"


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Three seconds that sound a little like speech: float32 [samples] at 16 kHz."""
    return speechlike(3)
