"""Which avatars are loaded: loading, eviction of whole avatars, and who holds one. Their frames' bytes are `FrameCache`'s."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.cores import usable_cores
from avatar_kit.errors import AvatarError, AvatarNotFound, AvatarReplaced, BrokenAvatar
from compositing_service.backgrounds.avatar_frames import AvatarFrames
from compositing_service.backgrounds.composer import AvatarComposer, open_composer
from compositing_service.backgrounds.frame_cache import EvictionPolicy, FrameCache
from compositing_service.backgrounds.lease import Lease
from compositing_service.backgrounds.preparing import Preparation, preparation_of
from compositing_service.backgrounds.store_stats import AvatarStats, StoreStats
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import ResourceExhausted

__all__ = ["AvatarStats", "BackgroundStore", "EvictionPolicy", "StoreStats"]

log = logging.getLogger(__name__)

# All avatars being in use is over when one request ends.
_RETRY_AFTER_MS = 500


@dataclass(eq=False, slots=True)
class _Entry:
    """One loading of one avatar. Its frames are pinned by those who hold it or wait for it."""

    avatar_id: str
    frames: AvatarFrames
    loading: asyncio.Task[AvatarComposer] = field(init=False)
    preparing: asyncio.Task[None] | None = None
    preparation: Preparation | None = None  # under way now
    hurry: asyncio.Event = field(default_factory=asyncio.Event)  # somebody waits for all of its frames
    composer: AvatarComposer | None = None  # None while loading
    usage_count: int = 0
    last_used_s: float = 0.0
    loaded_unix_s: float = 0.0
    retired: bool = False  # dropped; lives on until its last holder lets go


class BackgroundStore:
    """Use from one event loop; `stats` from any thread. Loading has threads of its own, so no avatar waits for another's."""

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
        loader_threads: int = 4,
        clock: Clock = SYSTEM_CLOCK,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`default_quality`: what a preload encodes. `wall_clock` gives Unix seconds for the statistics."""
        self._catalog = catalog
        self._cache = FrameCache(max_bytes=max_bytes, policy=policy)
        self._max_avatars = max_avatars
        self._frames_per_avatar = frames_per_avatar
        self._default_quality = default_quality
        self._idle_timeout_s = idle_timeout_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._entries: dict[str, _Entry] = {}
        self._reloads: dict[str, _Entry] = {}
        self._preparing: set[asyncio.Task[None]] = set()
        self._load_errors: dict[str, str] = {}
        self._avatar_evictions = 0
        self._fill_width = loader_threads
        # Unasked, it must not get in the way of the request that loaded the avatar, nor of the network that it waits for.
        self._unasked_width = max(1, min(loader_threads, usable_cores() // 4))
        # Apart, so that opening an avatar does not wait behind another's five hundred frames.
        self._openers = ThreadPoolExecutor(loader_threads, "avatar-open")
        self._fillers = ThreadPoolExecutor(loader_threads, "avatar-fill")

    @asynccontextmanager
    async def acquire(self, avatar_id: str) -> AsyncIterator[Lease]:
        """Holds the avatar inside the `async with`, loaded first when need be.

        Raises on entry InvalidAvatarId, AvatarNotFound, BrokenAvatar; ResourceExhausted when `max_avatars` are all in use.
        """
        entry = self._entry(avatar_id)
        with self._held(entry):
            composer = await asyncio.shield(entry.loading)
            entry.usage_count += 1
            yield Lease(composer, lambda: entry.preparation, lambda: not self._is_superseded(entry))

    def _is_superseded(self, entry: _Entry) -> bool:
        newest = self._entries.get(entry.avatar_id)
        return newest is not None and newest is not entry and newest.composer is not None

    def is_loaded(self, avatar_id: str) -> bool:
        """Whether acquiring it now costs no loading."""
        entry = self._entries.get(avatar_id)
        return entry is not None and entry.composer is not None

    async def load(self, avatar_id: str, *, force_reload: bool = False, preload: bool = False) -> AvatarStats:
        """Loads the avatar unless it is loaded; `preload` reads and encodes its frames too, as many as may be kept.

        `force_reload` reads the files again; requests under way finish on the old state, and a reload that fails leaves it in
        place. A preload that meets broken frames raises BrokenAvatar naming them all; the avatar is loaded all the same. Raises
        otherwise as `acquire`. Files that are replaced meanwhile are read too.
        """
        entry = self._reload(avatar_id) if force_reload and self.is_loaded(avatar_id) else self._entry(avatar_id)
        with self._held(entry):
            composer = await asyncio.shield(entry.loading)
            try:
                # A load under way that it waited for may have read older ones.
                if force_reload and not await asyncio.to_thread(composer.avatar.is_in_place):
                    raise AvatarReplaced("replaced since they were read")
                if preload:
                    preparing = self._prepare(entry, composer)
                    entry.hurry.set()
                    await asyncio.shield(preparing)
            except AvatarReplaced:
                outdated = self._entries.get(avatar_id) is entry
            else:
                return self._avatar_stats(entry)
        return await self.load(avatar_id, force_reload=outdated, preload=preload)

    async def renew(self, lease: Lease) -> bool:
        """Loads an avatar again whose files seem to have been replaced; once however many find it.

        False: they are still those that were loaded. Raises AvatarReplaced when the new ones can not be loaded: the
        old state stays in place; ResourceExhausted as `acquire`.
        """
        avatar = lease.avatar
        try:
            if self._holds(lease.composer) and await asyncio.to_thread(avatar.is_in_place):
                return False
            if self._holds(lease.composer):
                await self.load(avatar.id, force_reload=True)
        except (AvatarNotFound, BrokenAvatar) as error:
            self._note_failure(avatar.id, error)
            raise AvatarReplaced(
                [f"the avatar's files were replaced, and the new ones can not be loaded: {each}" for each in error.problems]
            ) from error
        return True

    def _holds(self, composer: AvatarComposer) -> bool:
        """Whether it is the one that the next caller gets."""
        entry = self._entries.get(composer.avatar.id)
        return entry is not None and entry.composer is composer

    async def unload(self, avatar_id: str) -> bool:
        """Drops the avatar; requests under way finish on it. False: it was not loaded."""
        entries = [entry for entry in (self._entries.get(avatar_id), self._reloads.get(avatar_id)) if entry]
        for entry in entries:
            self._retire(entry)
        self._load_errors.pop(avatar_id, None)
        return bool(entries)

    def unload_idle(self) -> tuple[str, ...]:
        """Drops the avatars that nobody has used for `idle_timeout_s`, and names them. For a periodic task of the service."""
        if self._idle_timeout_s is None:
            return ()
        oldest = self._clock.now() - self._idle_timeout_s
        idle = [entry for entry in self._unused() if entry.last_used_s <= oldest]
        for entry in idle:
            self._retire(entry)
            log.info("unloaded avatar %s: not used for %.0f s", entry.avatar_id, self._idle_timeout_s)
        return tuple(entry.avatar_id for entry in idle)

    def stats(self) -> StoreStats:
        """Figures of every avatar that is loaded or whose last load failed, and of the store."""
        loaded = [self._avatar_stats(entry) for entry in list(self._entries.values()) if entry.composer]
        known = {avatar.avatar_id for avatar in loaded}
        failed = [AvatarStats(key, load_error=error) for key, error in list(self._load_errors.items()) if key not in known]
        counts = self._cache.counts()
        return StoreStats(
            avatars=tuple(sorted((*loaded, *failed), key=lambda avatar: avatar.avatar_id)),
            loaded_avatars=len(loaded),
            max_avatars=self._max_avatars,
            memory_bytes=self._cache.nbytes,
            max_bytes=self._cache.max_bytes,
            hits=counts.hits,
            misses=counts.misses,
            evictions=counts.evictions,
            avatar_evictions=self._avatar_evictions,
        )

    async def close(self) -> None:
        """Drops everything, and ends the loader threads when they are done with what they are at."""
        entries = [*self._entries.values(), *self._reloads.values()]
        for entry in entries:
            self._retire(entry)
        await asyncio.gather(*(entry.loading for entry in entries), return_exceptions=True)
        await asyncio.gather(*self._preparing, return_exceptions=True)
        for pool in (self._openers, self._fillers):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)

    def _entry(self, avatar_id: str) -> _Entry:
        """The avatar's entry; it begins to load when there is none."""
        if avatar_id not in self._entries:
            self._entries[avatar_id] = self._begin(avatar_id)
        return self._entries[avatar_id]

    def _reload(self, avatar_id: str) -> _Entry:
        """An entry that takes the present one's place when it has loaded."""
        if avatar_id not in self._reloads:
            self._reloads[avatar_id] = self._begin(avatar_id)
        return self._reloads[avatar_id]

    def _begin(self, avatar_id: str) -> _Entry:
        entry = _Entry(avatar_id, self._cache.open(max_frames=self._frames_per_avatar))
        entry.loading = asyncio.create_task(self._load(entry))
        entry.loading.add_done_callback(_look_at_error)
        return entry

    async def _load(self, entry: _Entry) -> AvatarComposer:
        """Runs once for an entry, whoever waits or has stopped waiting for it."""
        try:
            composer = await asyncio.get_running_loop().run_in_executor(self._openers, self._open, entry)
            if not entry.retired:
                self._install(entry, composer)
        except BaseException as error:
            self._retire(entry)
            self._note_failure(entry.avatar_id, error)
            raise
        finally:
            if self._reloads.get(entry.avatar_id) is entry:
                del self._reloads[entry.avatar_id]
        return composer

    def _open(self, entry: _Entry) -> AvatarComposer:
        with suppress(AvatarReplaced):
            return self._open_once(entry)
        return self._open_once(entry)

    def _open_once(self, entry: _Entry) -> AvatarComposer:
        avatar = self._catalog.get(entry.avatar_id)
        quality = self._default_quality
        return open_composer(avatar, cache=self._cache, frames=entry.frames, quality=quality)

    def _install(self, entry: _Entry, composer: AvatarComposer) -> None:
        """Makes it the avatar's entry, in the place of an older one or of another avatar."""
        older = self._entries.get(entry.avatar_id)
        if older is not None and older is not entry:
            self._retire(older)
        self._make_room()
        entry.composer = composer
        entry.last_used_s = self._clock.now()
        entry.loaded_unix_s = self._wall_clock()
        self._entries[entry.avatar_id] = entry
        self._load_errors.pop(entry.avatar_id, None)
        avatar = composer.avatar
        if avatar.video:
            self._prepare(entry, composer)
        log.info(
            "loaded avatar %s: %d frames of %dx%d, restart interval %d",
            avatar.id,
            avatar.frame_count,
            avatar.width,
            avatar.height,
            composer.restart_interval,
        )

    def _make_room(self) -> None:
        """Drops an avatar if as many are loaded as may be. Raises ResourceExhausted when all of them are in use."""
        loaded = sum(entry.composer is not None for entry in self._entries.values())
        if loaded < self._max_avatars:
            return
        unused = self._unused()
        if not unused:
            raise ResourceExhausted(
                f"all {self._max_avatars} avatars that this service may hold are in use; try again shortly",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        victim = min(unused, key=lambda entry: self._cache.rank(entry.frames))
        self._retire(victim)
        self._avatar_evictions += 1
        log.info("unloaded avatar %s: room for %d avatars, another was asked for", victim.avatar_id, self._max_avatars)

    def _unused(self) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.composer and not entry.frames.pins]

    def _retire(self, entry: _Entry) -> None:
        """Nobody else gets it; its memory goes when its last holder lets go."""
        entry.retired = True
        if self._entries.get(entry.avatar_id) is entry:
            del self._entries[entry.avatar_id]
        if not entry.frames.pins:
            self._cache.close(entry.frames)

    @contextmanager
    def _held(self, entry: _Entry) -> Iterator[None]:
        self._cache.pin(entry.frames)
        try:
            yield
        finally:
            self._cache.unpin(entry.frames)
            entry.last_used_s = self._clock.now()
            if entry.retired and not entry.frames.pins:
                self._cache.close(entry.frames)

    def _prepare(self, entry: _Entry, composer: AvatarComposer) -> asyncio.Task[None]:
        """Begins to prepare the avatar's frames, unless that is under way. It goes on whoever stops waiting for it."""
        if entry.preparing is None or entry.preparing.done():
            entry.hurry.clear()
            entry.preparation = preparation_of(composer, quality=self._default_quality)
            entry.preparing = asyncio.create_task(self._fill(entry, entry.preparation))
            self._preparing.add(entry.preparing)
            entry.preparing.add_done_callback(self._preparing.discard)
            entry.preparing.add_done_callback(_look_at_error)
        return entry.preparing

    async def _fill(self, entry: _Entry, preparation: Preparation) -> None:
        """Prepares frames in several threads, until all are there, room is out, or the avatar is dropped."""
        try:
            await self._step_on(entry, preparation)
        finally:
            entry.preparation = None
            await asyncio.get_running_loop().run_in_executor(self._fillers, preparation.end)  # which may wait for a reader

    async def _step_on(self, entry: _Entry, preparation: Preparation) -> None:
        loop = asyncio.get_running_loop()
        problems: list[str] = []
        replaced: list[AvatarReplaced] = []

        async def fill(lane: int) -> None:
            if lane >= self._unasked_width:
                await entry.hurry.wait()
            while not entry.retired:
                try:
                    if not await loop.run_in_executor(self._fillers, preparation.step):
                        break
                except BrokenAvatar as error:
                    problems.extend(error.problems)
                except AvatarReplaced as error:
                    replaced.append(error)
                    break
            entry.hurry.set()  # the others see for themselves that there is nothing left

        async with asyncio.TaskGroup() as group:
            for lane in range(self._fill_width):
                group.create_task(fill(lane))
        if replaced:
            raise replaced[0]
        if problems:
            failure = BrokenAvatar(list(dict.fromkeys(problems)))
            self._note_failure(entry.avatar_id, failure)
            raise failure

    def _note_failure(self, avatar_id: str, error: BaseException) -> None:
        """Only of avatars that exist: ids that callers make up must not fill the memory."""
        if isinstance(error, BrokenAvatar):
            text = error.caller_text
            if self._load_errors.get(avatar_id) != text:
                log.warning("avatar %s: %s", avatar_id, text)
            self._load_errors[avatar_id] = text
        elif isinstance(error, AvatarError):
            self._load_errors.pop(avatar_id, None)

    def _avatar_stats(self, entry: _Entry) -> AvatarStats:
        unused_s = self._clock.now() - entry.last_used_s
        return AvatarStats(
            avatar_id=entry.avatar_id,
            loaded=True,
            in_use=entry.frames.pins,
            usage_count=entry.usage_count,
            last_used_unix_ms=round((self._wall_clock() - unused_s) * 1000) if entry.usage_count else 0,
            loaded_unix_ms=round(entry.loaded_unix_s * 1000),
            memory_bytes=entry.frames.nbytes,
            cached_frames=len(entry.frames.encoded),
            restart_interval=entry.composer.restart_interval if entry.composer else 0,
            load_error=self._load_errors.get(entry.avatar_id, ""),
        )


def _look_at_error(loading: asyncio.Task[Any]) -> None:
    """So that asyncio does not report as forgotten an error for which nobody waits any more."""
    if not loading.cancelled():
        loading.exception()
