"""Real services before small avatars, and gateways in this process with settings of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway_service.service import gateway_service
from gateway_service.settings import GatewaySettings
from service_kit.life import RunningService
from service_kit.settings import load_settings

from ..end_to_end.avatars import write_avatar, write_broken_avatars
from ..end_to_end.processes import Service, running_all

LOOPBACK = "server.port=127.0.0.1:0", "metrics.port=127.0.0.1:0", "server.drain_seconds=0"


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small avatars, whole and broken; read only."""
    root = tmp_path_factory.mktemp("models")
    write_avatar(root, "small")
    write_avatar(root, "other", seed=50, frames=3)
    write_broken_avatars(root)
    return root


@pytest.fixture(scope="session")
def compositing(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The services, in one process without a gateway."""
    settings = f"models_root={models_root}", f"audio_encoder_path={models_root / 'none.onnx'}", "limits.admit_sessions=all"
    with running_all(*settings, log=tmp_path_factory.mktemp("services") / "all") as (service, *_):
        yield service


@asynccontextmanager
async def running_gateway(upstream: str, *overrides: str) -> AsyncIterator[RunningService]:
    """A gateway in this process."""
    given = [*LOOPBACK, f"compositing_server.url={upstream}", *overrides]
    settings = load_settings(GatewaySettings, config=None, overrides=given, environ={})
    async with RunningService(gateway_service(settings)) as running:
        yield running


@asynccontextmanager
async def calling(upstream: str, *overrides: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A gateway in this process, and a client whose addresses are paths of it."""
    async with running_gateway(upstream, *overrides) as running:
        base = f"http://{running.address.reachable}"
        async with aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(limit=0)) as http:
            yield http


@pytest.fixture
async def bare() -> AsyncIterator[RunningService]:
    """A gateway in this process, and no compositing service."""
    async with running_gateway("127.0.0.1:1") as running:
        yield running
