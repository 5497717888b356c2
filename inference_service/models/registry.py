"""Holds the loaded avatars: loads each on demand, once for all who ask, and unloads by policy, never one in use."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError, AvatarReplaced
from inference_service.audio.features import AudioFeatures
from inference_service.engines.devices import Device
from inference_service.engines.engine import Engine
from inference_service.limited_threads import LimitedThreads, Overrun
from inference_service.metrics import LOAD, InferenceMetrics
from inference_service.models.filling import BackgroundFills
from inference_service.models.model import LoadedModel, ModelLoader
from inference_service.models.placement import Placement
from inference_service.settings import InferenceSettings
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import Aborted, FailedPrecondition, NotFound, as_service_errors
from service_kit.leases import Lease, Leases

log = logging.getLogger(__name__)

# Avatars opened at the same time: more than one, so that a network that never ends its warm-up holds up no other.
LOAD_THREADS = 4
SHARED_ENCODER = ""  # its name among the refusals
# A replaced avatar is kept for live sessions, which end their segments with it, for so long after its last use.
FORMER_S = 10.0
FILE_THREADS = 2  # that look at avatars' files without waiting for loads
_REPLACED = "the avatar's files were replaced"
_THEN = "load it again with force_reload, and give both services the same files"


class ModelRegistry:
    """Used from the event loop only; loads run on threads of their own."""

    def __init__(
        self,
        catalog: AvatarCatalog,
        devices: Sequence[Device],
        loader: ModelLoader,
        settings: InferenceSettings,
        metrics: InferenceMetrics,
        *,
        on_lost: Callable[[str], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`on_lost` is called with the reason when the thread of a load does not return."""
        self.catalog = catalog
        self._settings = settings
        self._loader = loader
        self._metrics = metrics
        self._leases = Leases(self._open, admit=self._admit, close=lambda _: None, clock=clock)
        self._clock = clock
        self._former: dict[str, Lease[LoadedModel]] = {}  # by avatar
        self._refusals: dict[str, str] = {}
        self._wanted_gpus: dict[str, int] = {}  # of loads under way
        self._file_threads = LimitedThreads(FILE_THREADS, "files", on_lost=on_lost, clock=clock)
        self._load_threads = LimitedThreads(LOAD_THREADS, "load", on_lost=on_lost, clock=clock)
        self._fills = BackgroundFills(on_lost)
        self.placement = Placement(
            devices, settings, loaded=lambda: self.loaded, former=lambda: [*self._former.values()], evict=self._evict
        )

    @property
    def loaded(self) -> list[Lease[LoadedModel]]:
        """The avatars loaded now."""
        return self._leases.opened

    def find(self, avatar_id: str) -> Lease[LoadedModel] | None:
        """Returns the avatar if it is loaded."""
        return self._leases.find(avatar_id)

    @property
    def noted(self) -> set[str]:
        """The avatars that are loaded or refused: those of which there is more to tell than their files do."""
        return {*(lease.key for lease in self.loaded), *self._refusals}

    def refusal(self, avatar_id: str) -> str | None:
        """Returns the reason why the avatar is refused until a reload; None when it is not."""
        return self._refusals.get(avatar_id)

    def refuse(self, avatar_id: str, reason: str) -> None:
        """Unloads an avatar that would hold up others, and refuses it with `reason` until it is loaded with force_reload."""
        log.error("%s; it is not served until it is loaded with force_reload", reason)
        self._refusals[avatar_id] = reason
        self.unload(avatar_id)

    def refuse_engine(self, engine: Engine, reason: str) -> None:
        """Refuses the avatar of an engine, unless it has been loaded again since."""
        lease = self.find(engine.avatar_id)
        if lease is None or engine in lease.value.engines:
            self.refuse(engine.avatar_id, reason)

    @asynccontextmanager
    async def acquire(self, avatar_id: str, *, version: str = "", is_live: bool = False) -> AsyncIterator[Lease[LoadedModel]]:
        """Leases the avatar for the length of the block, and loads it first if needed. Raises ServiceError.

        With `version`, which may be any text, the avatar must have that version. Its files are read again when they have it.
        Raises Aborted when they do not; a live session gets a version that was replaced while it was in use.
        """
        former = self._former.get(avatar_id)
        if is_live and former and former.value.avatar.version == version:
            former.last_used_s = self._clock.now()
            yield former
            return
        known = self.find(avatar_id)
        if known and version not in {"", known.value.avatar.version} and await self._version_on_disk(avatar_id) == version:
            await self._leases.renew(known)
        async with self._leases.acquire(avatar_id) as lease:
            if version not in {"", lease.value.avatar.version}:
                raise Aborted(f"{_REPLACED}: the caller and the inference service have different ones; {_THEN}")
            yield lease

    async def load(self, avatar_id: str, *, force_reload: bool = False, gpu_id: int | None = None) -> Lease[LoadedModel]:
        """Loads the avatar if needed, or again. A failed reload keeps the old one; requests in flight finish on the old one.

        `gpu_id`: that of the device to load it on; an avatar that is loaded on others alone is loaded again. Raises ServiceError.
        """
        if force_reload:
            self._refusals.pop(avatar_id, None)
            self._refusals.pop(SHARED_ENCODER, None)
            self._loader.reopen()
        loaded = self.find(avatar_id)
        if gpu_id is None or (loaded and any(engine.device.gpu_id == gpu_id for engine in loaded.value.engines)):
            async with self._leases.hold(avatar_id, anew=force_reload) as lease:
                return lease
        self._wanted_gpus[avatar_id] = gpu_id
        try:
            async with self._leases.hold(avatar_id, anew=True) as lease:
                return lease
        finally:
            self._wanted_gpus.pop(avatar_id, None)

    async def shared_features(self) -> AudioFeatures:
        """Returns the audio encoder of avatars that have none of their own, and opens it first if needed. Raises ServiceError."""
        self._raise_refusal(SHARED_ENCODER)
        try:
            with as_service_errors(AvatarError, field="model_id"):
                return await self._load_threads.run(
                    lambda: self._loader.features(self.catalog.shared_encoder_path(), self.placement.devices[0]),
                    limit_s=self._settings.limits.load_seconds,
                )
        except Overrun as error:
            reason = f"the shared audio encoder: {error}"
            self.refuse(SHARED_ENCODER, reason)
            raise FailedPrecondition(reason) from error

    async def preload(self, avatar_id: str) -> None:
        """Loads the avatar and makes all its crops. Raises ServiceError."""
        lease = await self.load(avatar_id)
        with as_service_errors(AvatarError, field="model_id"):
            await self._fills.fill(lease)

    async def renew(self, lease: Lease[LoadedModel]) -> None:
        """Loads an avatar again whose files have been replaced, once for all requests that find out.

        Raises Aborted when the new files cannot be loaded: the old avatar stays.
        """
        try:
            await self._leases.renew(lease)
        except (FailedPrecondition, NotFound) as error:
            raise Aborted(f"{_REPLACED}, and the new ones cannot be loaded: {error.message}") from error

    def unload(self, avatar_id: str) -> bool:
        """Unloads the avatar. Requests in flight finish on it. Returns False when it was not loaded."""
        self._former.pop(avatar_id, None)
        return self._leases.drop(avatar_id)

    def unload_idle(self) -> None:
        """Unloads avatars that have not been used for the configured time."""
        if limit_s := self._settings.capacity.idle_timeout_minutes * 60:
            for avatar_id in self._leases.drop_idle(limit_s):
                self._note_evicted(avatar_id, "idle")

    def forget_former(self) -> None:
        """Lets go of replaced avatars that no live session has used lately. The service calls it periodically."""
        for avatar_id, lease in list(self._former.items()):
            if self._clock.now() - lease.last_used_s > FORMER_S:
                del self._former[avatar_id]

    async def close(self) -> None:
        """Cuts short all loads and unloads everything."""
        await self._load_threads.close()
        await self._file_threads.close()
        await self._leases.close()
        await self._fills.close()

    async def _version_on_disk(self, avatar_id: str) -> str:
        """Returns the version of the avatar's files as they are now; "" when they cannot be served."""
        try:
            return (await self._file_threads.run(lambda: self.catalog.get(avatar_id))).version
        except AvatarError:
            return ""

    async def _open(self, avatar_id: str) -> LoadedModel:
        self._raise_refusal(avatar_id)
        try:
            with as_service_errors(AvatarError, field="model_id"):
                try:
                    return await self._open_once(avatar_id)
                except AvatarReplaced:
                    return await self._open_once(avatar_id)
        except Exception as error:
            log.warning("avatar %s was not loaded: %s", avatar_id, error)
            if not isinstance(error, NotFound):  # the caller's mistake, not the avatar's
                self._metrics.loads.labels("failed").inc()
            if isinstance(error, Overrun):
                raise self._too_slow(avatar_id, error) from error
            raise

    async def _open_once(self, avatar_id: str) -> LoadedModel:
        avatar = await self._file_threads.run(lambda: self.catalog.get(avatar_id))
        with avatar.held.in_place():
            wanted, preferred = self._wanted_gpus.get(avatar_id), self.catalog.entry(avatar_id).preferred_gpu
            devices = self.placement.devices_for(avatar_id, wanted_gpu=wanted, preferred_gpu=preferred)
            self.placement.make_room(avatar, devices)
            return await self._load_threads.run(
                lambda: self._loader.load(avatar, self.catalog.audio_encoder_path(avatar), devices),
                limit_s=self._settings.limits.load_seconds,
            )

    def _admit(self, lease: Lease[LoadedModel]) -> None:
        model = lease.value
        if (older := self.find(lease.key)) and older.value.avatar.version != model.avatar.version:
            self._former[lease.key] = older
            self.forget_former()
        self.placement.trim(lease)
        self._metrics.loads.labels("loaded").inc()
        self._metrics.stages[LOAD].observe(model.load_seconds)
        log.info("loaded avatar %s in %.0f ms, %.0f MB", lease.key, model.load_seconds * 1000, model.memory_bytes / 1e6)
        if self.placement.is_worth_filling(model):
            self._fills.begin(lease)

    def _raise_refusal(self, avatar_id: str) -> None:
        if reason := self.refusal(avatar_id):
            raise FailedPrecondition(reason)

    def _too_slow(self, avatar_id: str, overrun: Overrun) -> FailedPrecondition:
        reason = f"avatar {avatar_id}: {overrun}"
        if self.find(avatar_id):
            log.error("%s; the one loaded before is still served", reason)
        else:
            self.refuse(avatar_id, reason)
        return FailedPrecondition(reason)

    def _evict(self, avatar_id: str, reason: str) -> None:
        if self.unload(avatar_id):
            self._note_evicted(avatar_id, reason)

    def _note_evicted(self, avatar_id: str, reason: str) -> None:
        self._metrics.evictions.labels(reason).inc()
        log.info("unloaded avatar %s: %s", avatar_id, reason)
