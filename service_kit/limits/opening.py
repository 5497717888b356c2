"""Opens the state of limits where the settings say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service_kit.clock import Clock
from service_kit.limits.memory_store import MemoryStore
from service_kit.limits.settings import QuotaStoreSection
from service_kit.limits.store import Store
from service_kit.metrics import Metrics


@asynccontextmanager
async def store_of(section: QuotaStoreSection, clock: Clock, metrics: Metrics) -> AsyncIterator[Store]:
    """Gives the store during the block. Raises StartError for files that cannot be used."""
    if section.url is None:
        yield MemoryStore(clock)
        return
    from service_kit.limits.redis_store import redis_store

    async with redis_store(section, clock, metrics) as store:
        yield store
