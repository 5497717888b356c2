"""Services that have too much to do: the list of avatars stays, and what is wrong is told as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lipsync_client import AsyncClient

from ..end_to_end.processes import Service, running_all
from .conftest import calling


@pytest.fixture(scope="module")
def small(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Services that take one call at a time."""
    settings = f"models_root={models_root}", f"audio_encoder_path={models_root / 'none.onnx'}", "server.max_running_calls=1"
    with running_all(*settings, log=tmp_path_factory.mktemp("services") / "all") as (service, *_):
        yield service


async def first_list(http: aiohttp.ClientSession) -> Any:
    """Returns the list, once the gateway's own look at the service has ended, which took its only place."""
    while True:
        async with http.get("/api/avatars") as answer:
            if answer.status == 200:
                assert "Age" not in answer.headers
                return await answer.json()
            assert answer.status == 429
        await asyncio.sleep(0.1)


async def test_the_last_list_is_kept_while_the_service_is_full(small: Service) -> None:
    async with calling(small.address, "pictures.list_seconds=0") as http, calling(small.address) as late:
        known = await first_list(http)
        async with AsyncClient(small.address) as client, client.session("small") as session:
            await anext(session)
            async with http.get("/api/avatars") as answer:
                assert (answer.status, await answer.json()) == (200, known)
                assert int(answer.headers["Age"]) >= 0
            async with late.get("/api/avatars") as answer:
                problem = await answer.json()
                assert (answer.status, problem["code"]) == (429, "RESOURCE_EXHAUSTED")
                assert int(answer.headers["Retry-After"]) >= 1
                assert problem["detail"]
