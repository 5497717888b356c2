"""Which avatars' backgrounds are in memory: loading, eviction, and who may hold one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal

from avatar_kit.catalog import AvatarCatalog
from compositing_service.composer import AvatarComposer

EvictionPolicy = Literal["lfu", "lru"]


@dataclass(frozen=True, slots=True)
class AvatarStats:
    """One avatar as the store knows it. `loaded` False: only `load_error` and the counters have a meaning."""

    avatar_id: str
    loaded: bool
    in_use: int  # requests that hold it now
    usage_count: int  # requests that have held it since it was loaded
    last_used_unix_ms: int  # 0: not yet
    loaded_unix_ms: int
    memory_bytes: int
    cached_frames: int
    restart_interval: int  # MCUs between restart markers; 0: pictures are encoded whole
    load_error: str  # of the last attempt to load; empty when it went well


@dataclass(frozen=True, slots=True)
class StoreStats:
    """The store as a whole. Hits, misses and evictions count single frames since the start; avatar_evictions whole avatars."""

    avatars: tuple[AvatarStats, ...]
    loaded_avatars: int
    max_avatars: int
    memory_bytes: int
    max_bytes: int
    hits: int
    misses: int
    evictions: int
    avatar_evictions: int


class BackgroundStore:
    """Use from one event loop. Loading runs in the store's own threads, so no avatar waits for another's."""

    def __init__(
        self,
        catalog: AvatarCatalog,
        *,
        max_bytes: int,
        max_avatars: int,
        frames_per_avatar: int,
        policy: EvictionPolicy,
        default_quality: int,
        idle_timeout_s: float | None = None,
        loader_threads: int = 2,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds on a line that never jumps, `wall_clock` Unix seconds for the statistics."""
        raise NotImplementedError

    def acquire(self, avatar_id: str) -> AbstractAsyncContextManager[AvatarComposer]:
        """The avatar's composer, loaded first when need be, and not evicted inside the `async with`.

        Raises on entry InvalidAvatarId, AvatarNotFound, BrokenAvatar; ResourceExhausted when `max_avatars` are all in use.
        """
        raise NotImplementedError

    def is_loaded(self, avatar_id: str) -> bool:
        """Whether acquiring it now costs no loading."""
        raise NotImplementedError

    async def load(self, avatar_id: str, *, force_reload: bool = False, preload: bool = False) -> AvatarStats:
        """Loads the avatar unless it is loaded; `preload` reads and encodes its frames too, as many as may be cached.

        `force_reload` reads the files again; requests under way finish on the old state, and a reload that fails leaves it in place.
        A preload that meets broken frames raises BrokenAvatar naming them all; the avatar is loaded all the same.
        """
        raise NotImplementedError

    async def unload(self, avatar_id: str) -> bool:
        """Drops the avatar; requests under way finish on it. False: it was not loaded."""
        raise NotImplementedError

    def unload_idle(self) -> tuple[str, ...]:
        """Drops the avatars that nobody has used for `idle_timeout_s`, and names them. For a periodic task of the service."""
        raise NotImplementedError

    def stats(self) -> StoreStats:
        """Figures of every avatar that is loaded or whose last load failed, and of the store."""
        raise NotImplementedError

    async def close(self) -> None:
        """Drops everything and stops the loader threads."""
        raise NotImplementedError
