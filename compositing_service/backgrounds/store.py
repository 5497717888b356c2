"""Loads avatars, prepares their frames, and makes room for others. `FrameCache` holds the frames' bytes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeAlias

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.cores import usable_cores
from avatar_kit.errors import AvatarError, AvatarNotFound, AvatarReplaced, BrokenAvatar
from compositing_service.backgrounds.composer import AvatarComposer, open_composer
from compositing_service.backgrounds.frame_cache import FrameCache
from compositing_service.backgrounds.preparing import Preparation
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import ResourceExhausted
from service_kit.leases import Lease, Leases, Policy, first_to_go

log = logging.getLogger(__name__)

# The state "all avatars in use" ends with the first request that ends.
_RETRY_AFTER_MS = 500

AvatarLease: TypeAlias = Lease[AvatarComposer]
"""Holds a loaded avatar, for hours if needed. It is not evicted meanwhile; its files may be loaded again."""


class BackgroundStore:
    """Use from one event loop. Each load has its own thread, so no avatar waits for another."""

    def __init__(
        self,
        catalog: AvatarCatalog,
        *,
        max_bytes: int,
        max_avatars: int,
        frames_per_avatar: int,
        policy: Policy,
        default_quality: int,
        idle_timeout_s: float | None = None,
        loader_threads: int = 4,
        clock: Clock = SYSTEM_CLOCK,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`default_quality`: the JPEG quality of a preload. `wall_clock` gives Unix seconds for the statistics."""
        self._catalog = catalog
        self.cache = FrameCache(max_bytes=max_bytes, policy=policy)
        self.max_avatars = max_avatars
        self._frames_per_avatar = frames_per_avatar
        self._policy: Policy = policy
        self._default_quality = default_quality
        self._idle_timeout_s = idle_timeout_s
        self._leases = Leases(self._open, admit=self._admit, close=AvatarComposer.close, clock=clock, wall_clock=wall_clock)
        self._preparations: dict[AvatarLease, Preparation] = {}
        self.load_errors: dict[str, str] = {}
        """The error of the last load or preload, for avatars where it failed."""
        self.avatar_evictions = 0
        self._fill_width = loader_threads
        # Without a waiting caller, it must not slow down the request that loaded the avatar, nor the network.
        self._unasked_width = max(1, min(loader_threads, usable_cores() // 4))
        # Separate, so that opening an avatar does not wait behind another's five hundred frames.
        self._openers = ThreadPoolExecutor(loader_threads, "avatar-open")
        self._fillers = ThreadPoolExecutor(loader_threads, "avatar-fill")

    @asynccontextmanager
    async def acquire(self, avatar_id: str) -> AsyncIterator[AvatarLease]:
        """Holds the avatar inside the `async with`; loads it first if needed.

        Raises on entry InvalidAvatarId, AvatarNotFound, BrokenAvatar; ResourceExhausted when `max_avatars` are all in use.
        """
        async with self._leases.acquire(avatar_id) as lease:
            with lease.value.in_use():
                yield lease

    def find(self, avatar_id: str) -> AvatarLease | None:
        """Returns the avatar if it is loaded, so that acquiring it loads nothing."""
        return self._leases.find(avatar_id)

    @property
    def loaded(self) -> list[AvatarLease]:
        """Lists the avatars loaded now. Any thread may call it."""
        return self._leases.opened

    async def load(self, avatar_id: str, *, force_reload: bool = False, preload: bool = False) -> AvatarLease:
        """Loads the avatar unless it is loaded; `preload` also reads and encodes its frames, up to the limit of kept ones.

        `force_reload` reads the files again; requests under way finish on the old state, and a reload that fails leaves it in
        place. A preload that meets broken frames raises BrokenAvatar naming them all; the avatar is loaded all the same. Raises
        otherwise as `acquire`. If the files are replaced meanwhile, the new ones are loaded.
        """
        try:
            return await self._load(avatar_id, anew=force_reload, preload=preload)
        except AvatarReplaced:  # before all of its frames were read
            return await self._load(avatar_id, anew=True, preload=preload)

    async def _load(self, avatar_id: str, *, anew: bool, preload: bool) -> AvatarLease:
        async with self._leases.hold(avatar_id, anew=anew) as lease:
            if preload:
                with lease.value.in_use():
                    await self._preparation(lease).wait()
            return lease

    async def renew(self, lease: AvatarLease) -> bool:
        """Loads an avatar again whose files seem to have been replaced, once for all callers.

        Returns False if they are still those that were loaded. Raises AvatarReplaced when the new ones cannot be loaded:
        the old state stays in place; ResourceExhausted as `acquire`.
        """
        try:
            if self.find(lease.key) is lease:
                if await asyncio.to_thread(self._is_on_disk, lease.value.avatar):
                    return False
                await self._leases.renew(lease)
        except (AvatarNotFound, BrokenAvatar) as error:
            self._note_failure(lease.key, error)
            raise AvatarReplaced(
                [f"the avatar's files were replaced, and the new ones cannot be loaded: {each}" for each in error.problems]
            ) from error
        return True

    async def unload(self, avatar_id: str) -> bool:
        """Drops the avatar; requests under way finish on it. Returns False if it was not loaded."""
        self.load_errors.pop(avatar_id, None)
        return self._leases.drop(avatar_id)

    def unload_idle(self) -> tuple[str, ...]:
        """Drops the avatars unused for `idle_timeout_s`, and returns their ids. The service calls it periodically."""
        idle = () if self._idle_timeout_s is None else tuple(self._leases.drop_idle(self._idle_timeout_s))
        for avatar_id in idle:
            log.info("unloaded avatar %s: not used for %.0f s", avatar_id, self._idle_timeout_s)
        return idle

    async def close(self) -> None:
        """Drops everything, and ends the loader threads after their current work."""
        await self._leases.close()
        await asyncio.gather(*(each.task for each in self._preparations.values()), return_exceptions=True)
        for pool in (self._openers, self._fillers):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)

    async def _open(self, avatar_id: str) -> AvatarComposer:
        loop = asyncio.get_running_loop()
        try:
            try:
                return await loop.run_in_executor(self._openers, self._open_once, avatar_id)
            except AvatarReplaced:
                return await loop.run_in_executor(self._openers, self._open_once, avatar_id)
        except AvatarError as error:
            self._note_failure(avatar_id, error)
            raise

    def _open_once(self, avatar_id: str) -> AvatarComposer:
        avatar = self._catalog.get(avatar_id)
        frames = self.cache.open(max_frames=self._frames_per_avatar)
        try:
            return open_composer(avatar, cache=self.cache, frames=frames)
        except BaseException:
            self.cache.close(frames)
            raise

    def _admit(self, lease: AvatarLease) -> None:
        """Drops an avatar if `max_avatars` are loaded. Raises ResourceExhausted when all of them are in use."""
        others = [other for other in self.loaded if other.key != lease.key]
        if len(others) >= self.max_avatars:
            victims = first_to_go(others, self._policy)
            if not victims:
                raise ResourceExhausted(
                    f"all {self.max_avatars} avatars that this service may hold are in use; try again shortly",
                    retry_after_ms=_RETRY_AFTER_MS,
                )
            self._leases.drop(victims[0].key)
            self.avatar_evictions += 1
            log.info("unloaded avatar %s: room for %d avatars, another was asked for", victims[0].key, self.max_avatars)
        self.load_errors.pop(lease.key, None)
        composer, avatar = lease.value, lease.value.avatar
        if avatar.video:
            self._preparation(lease)
        log.info(
            "loaded avatar %s: %d frames of %dx%d, restart interval %d",
            avatar.id,
            avatar.frame_count,
            avatar.width,
            avatar.height,
            composer.restart_interval,
        )

    def _is_on_disk(self, avatar: Avatar) -> bool:
        return avatar.held.is_in_place() and self._catalog.get(avatar.id).version == avatar.version

    def _preparation(self, lease: AvatarLease) -> Preparation:
        """Returns the preparation under way, or a new one."""
        known = self._preparations.get(lease)
        if known:
            return known
        preparation = self._preparations[lease] = Preparation(
            lease.value,
            self._fillers,
            quality=self._default_quality,
            width=self._fill_width,
            unasked=self._unasked_width,
            goes_on=lambda: not lease.dropped,
        )
        preparation.task.add_done_callback(lambda task: self._prepared(lease, task))
        return preparation

    def _prepared(self, lease: AvatarLease, task: asyncio.Task[None]) -> None:
        del self._preparations[lease]
        if not task.cancelled() and isinstance(error := task.exception(), BrokenAvatar):
            self._note_failure(lease.key, error)

    def _note_failure(self, avatar_id: str, error: BaseException) -> None:
        """Notes errors of existing avatars only: invented ids must not fill the memory."""
        if isinstance(error, BrokenAvatar):
            text = error.caller_text
            if self.load_errors.get(avatar_id) != text:
                log.warning("avatar %s: %s", avatar_id, text)
            self.load_errors[avatar_id] = text
        elif isinstance(error, AvatarError):
            self.load_errors.pop(avatar_id, None)
