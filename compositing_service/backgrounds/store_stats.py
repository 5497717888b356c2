"""What the background store says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AvatarStats:
    """One avatar as the store knows it. `loaded` False: only `load_error` has a meaning."""

    avatar_id: str
    loaded: bool = False
    in_use: int = 0
    """How many hold it now."""
    usage_count: int = 0
    """How often it was acquired since it was loaded."""
    last_used_unix_ms: int = 0
    """0: not yet."""
    loaded_unix_ms: int = 0
    memory_bytes: int = 0
    cached_frames: int = 0
    restart_interval: int = 0
    """MCUs between restart markers; 0: pictures are encoded whole."""
    load_error: str = ""
    """Of the last attempt to load or preload; empty when it went well."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """The store as a whole. Hits, misses and evictions count single frames since the start, avatar_evictions whole avatars."""

    avatars: tuple[AvatarStats, ...]
    """Sorted by id: those that are loaded, and those whose last load failed."""
    loaded_avatars: int
    max_avatars: int
    memory_bytes: int
    max_bytes: int
    hits: int
    misses: int
    evictions: int
    avatar_evictions: int
