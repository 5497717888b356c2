"""Pictures that a gateway shows, and the sessions behind them."""

from __future__ import annotations

import asyncio

from lipsync_client import AsyncClient

from ..end_to_end.processes import Service


async def sessions(service: Service) -> int:
    async with AsyncClient(service.address) as client:
        return len(await client.list_sessions())


async def until_sessions(service: Service, count: int) -> None:
    async with asyncio.timeout(60):
        while await sessions(service) != count:  # noqa: ASYNC110 - another process has them
            await asyncio.sleep(0.02)
