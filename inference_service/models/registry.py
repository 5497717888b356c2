"""The loaded avatars: on demand, once however many ask, evicted by the policy, never while in use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import psutil

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError, AvatarReplaced, BrokenAvatar
from inference_service.audio.features import AudioFeatures
from inference_service.engines.devices import Device
from inference_service.engines.engine import Engine
from inference_service.limited_threads import LimitedThreads, Overrun
from inference_service.metrics import InferenceMetrics
from inference_service.models.eviction import to_make_room
from inference_service.models.filling import Fillings, drop
from inference_service.models.model import LoadedModel, ModelLoader
from inference_service.settings import InferenceSettings
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import Aborted, FailedPrecondition, NotFound, ResourceExhausted, as_service_errors

log = logging.getLogger(__name__)

RETRY_WHEN_FULL_MS = 1000
# Avatars opened at the same time: more than one, so that a network that never ends its warm-up holds up no other.
LOAD_THREADS = 4
SHARED_ENCODER = ""  # its name among those that are put out
FILE_THREADS = 2  # that look at avatars' files without waiting for loads
CROP_BYTES = 3 * 320 * 320
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
        """`on_lost` is told of a load whose thread does not come back."""
        self.catalog = catalog
        self.max_models = settings.capacity.max_models
        self.max_bytes = int(settings.capacity.max_memory_gb * 2**30)
        self._settings = settings
        self._devices = devices
        self._loader = loader
        self._metrics = metrics
        self._models: dict[str, LoadedModel] = {}
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self._put_out: dict[str, str] = {}
        self._file_threads = LimitedThreads(FILE_THREADS, "files", on_lost=on_lost, clock=clock)
        self._load_threads = LimitedThreads(LOAD_THREADS, "load", on_lost=on_lost, clock=clock)
        self._fillings = Fillings(on_lost)
        self._clock = clock
        self._turn = 0

    @property
    def loaded(self) -> list[LoadedModel]:
        """The avatars loaded now."""
        return list(self._models.values())

    @property
    def memory_bytes(self) -> int:
        """Measured memory of all loaded avatars."""
        return sum(model.memory_bytes for model in self._models.values())

    def find(self, avatar_id: str) -> LoadedModel | None:
        """The avatar if it is loaded."""
        return self._models.get(avatar_id)

    def refusal(self, avatar_id: str) -> str | None:
        """The reason why the avatar is not loaded, nor will be without a reload; None when it is or may be."""
        return self._put_out.get(avatar_id)

    def put_out(self, avatar_id: str, reason: str) -> None:
        """Unloads an avatar that would hold up others, and refuses it with `reason` until it is loaded with force_reload."""
        log.error("%s; it is not served until it is loaded with force_reload", reason)
        self._put_out[avatar_id] = reason
        self.unload(avatar_id)

    def put_out_engine(self, engine: Engine, reason: str) -> None:
        """Puts out the avatar of an engine, unless it has been loaded again since."""
        model = self._models.get(engine.avatar_id)
        if model is None or engine in model.engines:
            self.put_out(engine.avatar_id, reason)

    @asynccontextmanager
    async def acquire(self, avatar_id: str, *, version: str = "") -> AsyncIterator[LoadedModel]:
        """The avatar, loaded if it was not, and kept for the length of the block. Raises ServiceError.

        With `version`, which may be any text, it is the avatar of that version: the files are read again when it is theirs.
        Raises Aborted when it is not.
        """
        model = self._models.get(avatar_id) or await self.load(avatar_id)
        if version and model.avatar.version != version:
            model = await self._of_version(model, version)
        model.in_use += 1
        model.note_use(self._clock.now())
        try:
            yield model
        finally:
            model.in_use -= 1
            model.last_used_s = self._clock.now()

    async def load(self, avatar_id: str, *, force_reload: bool = False) -> LoadedModel:
        """Loads the avatar if it is not, or again. A failed reload keeps the old one; calls under way finish on it.

        Raises ServiceError.
        """
        model = self._models.get(avatar_id)
        if model is not None and not force_reload:
            return model
        if force_reload:
            self._put_out.pop(avatar_id, None)
            self._put_out.pop(SHARED_ENCODER, None)
            self._loader.reopen()
        self._refuse_put_out(avatar_id)
        task = self._loading.get(avatar_id) or self._begin(avatar_id)
        # Shielded: one caller that gives up must not take the load away from the others.
        model = await asyncio.shield(task)
        if force_reload and not await self._file_threads.run(model.avatar.is_in_place):
            return await self.load(avatar_id, force_reload=True)  # replaced after a load under way had read them
        return model

    async def shared_features(self) -> AudioFeatures:
        """The audio encoder of avatars that have none of their own, opened if it was not. Raises ServiceError."""
        self._refuse_put_out(SHARED_ENCODER)
        try:
            with as_service_errors(AvatarError, field="model_id"):
                return await self._load_threads.run(
                    lambda: self._loader.features(self.catalog.shared_encoder_path(), self._devices[0]),
                    limit_s=self._settings.limits.load_seconds,
                )
        except Overrun as error:
            reason = f"the shared audio encoder: {error}"
            self.put_out(SHARED_ENCODER, reason)
            raise FailedPrecondition(reason) from error

    async def preload(self, avatar_id: str) -> None:
        """Loads the avatar and makes all its crops. Raises ServiceError."""
        model = await self.load(avatar_id)
        with as_service_errors(AvatarError, field="model_id"):
            await self._fillings.fill(model)

    async def renew(self, model: LoadedModel) -> None:
        """Loads an avatar again whose files were found to have been replaced; once however many find it.

        Raises Aborted when the new ones can not be loaded: the old avatar stays.
        """
        avatar_id = model.avatar.id
        if self._models.get(avatar_id) is not model:
            return
        try:
            await self.load(avatar_id, force_reload=True)
        except (FailedPrecondition, NotFound) as error:
            raise Aborted(f"{_REPLACED}, and the new ones can not be loaded: {error.message}") from error

    def unload(self, avatar_id: str) -> bool:
        """Forgets the avatar; calls under way finish on it. Returns False when it was not loaded."""
        model = self._models.pop(avatar_id, None)
        if model is None:
            return False
        drop(model)
        return True

    def unload_idle(self) -> None:
        """Unloads what nobody used for the configured time."""
        limit = self._settings.capacity.idle_timeout_minutes * 60
        for avatar_id, model in list(self._models.items()):
            if limit and not model.in_use and self._clock.now() - model.last_used_s > limit:
                self._evict(avatar_id, "idle")

    async def close(self) -> None:
        """Cuts loads under way short and forgets everything."""
        await self._load_threads.close()
        await self._file_threads.close()
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await self._fillings.close()
        self._models.clear()

    async def _of_version(self, other: LoadedModel, version: str) -> LoadedModel:
        """The avatar as the caller has it, which is not the `other` that is loaded. Raises ServiceError."""
        avatar_id = other.avatar.id
        on_disk = await self._file_threads.run(lambda: self._version_on_disk(other.avatar))
        model = self._models.get(avatar_id)
        if on_disk == version and (model is None or model.avatar.version != version):
            model = await self.load(avatar_id, force_reload=True)
        if model is None or model.avatar.version != version:
            raise Aborted(f"{_REPLACED}: the caller and the inference service have different ones; {_THEN}")
        return model

    def _version_on_disk(self, loaded: Avatar) -> str:
        """Of what lies there now; "" when nothing does that can be served. Blocks, for microseconds while nothing changes."""
        if loaded.is_in_place():
            return loaded.version
        try:
            return self.catalog.get(loaded.id).version
        except AvatarError:
            return ""

    def _begin(self, avatar_id: str) -> asyncio.Task[LoadedModel]:
        task = asyncio.create_task(self._load(avatar_id), name=f"load-{avatar_id}")
        self._loading[avatar_id] = task
        task.add_done_callback(lambda done: self._loading_ended(avatar_id, done))
        return task

    def _loading_ended(self, avatar_id: str, task: asyncio.Task[LoadedModel]) -> None:
        del self._loading[avatar_id]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:  # also marks it as seen when every caller has gone
            log.warning("avatar %s was not loaded: %s", avatar_id, error)

    async def _load(self, avatar_id: str) -> LoadedModel:
        try:
            with as_service_errors(AvatarError, field="model_id"):
                model = await self._read(avatar_id)
        except NotFound:  # the caller's mistake, not the avatar's
            raise
        except Exception as error:
            self._metrics.loaded_model(None)
            if isinstance(error, Overrun):
                raise self._too_slow(avatar_id, error) from error
            raise
        if older := self._models.get(avatar_id):
            drop(older)
        self._models[avatar_id] = model
        model.last_used_s = self._clock.now()
        self._metrics.loaded_model(model.load_seconds)
        log.info("loaded avatar %s in %.0f ms, %.0f MB", avatar_id, model.load_seconds * 1000, model.memory_bytes / 1e6)
        self._trim(keep=avatar_id)
        if self._is_worth_filling(model):
            self._fillings.begin(model)
        return model

    def _refuse_put_out(self, avatar_id: str) -> None:
        if reason := self._put_out.get(avatar_id):
            raise FailedPrecondition(reason)

    def _too_slow(self, avatar_id: str, overrun: Overrun) -> FailedPrecondition:
        reason = f"avatar {avatar_id}: {overrun}"
        if avatar_id in self._models:
            log.error("%s; the one loaded before is served on", reason)
        else:
            self.put_out(avatar_id, reason)
        return FailedPrecondition(reason)

    async def _read(self, avatar_id: str) -> LoadedModel:
        """The avatar from its files, all of one version. Raises AvatarError, ResourceExhausted."""
        with suppress(AvatarReplaced):
            return await self._read_once(avatar_id)
        return await self._read_once(avatar_id)

    async def _read_once(self, avatar_id: str) -> LoadedModel:
        avatar = await self._file_threads.run(lambda: self.catalog.get(avatar_id))
        with avatar.in_place():
            devices = self._place(avatar)
            self._make_room(avatar_id, coming_bytes=_expected_bytes(avatar, devices))
            return await self._load_threads.run(
                lambda: self._loader.load(avatar, self.catalog.audio_encoder_path(avatar), devices),
                limit_s=self._settings.limits.load_seconds,
            )

    def _is_worth_filling(self, model: LoadedModel) -> bool:
        """On a GPU the bank can then lie there; of a video that fits, each frame is then decoded once."""
        if any(engine.device.is_gpu for engine in model.engines):
            return True
        if not model.avatar.video:
            return False
        room = self.max_bytes - self.memory_bytes if self.max_bytes else psutil.virtual_memory().available // 2
        return len(model.engines) * model.avatar.frame_count * CROP_BYTES <= room

    def _place(self, avatar: Avatar) -> Sequence[Device]:
        """The devices that the avatar goes to. Raises BrokenAvatar when its preferred GPU is not there."""
        if self._settings.gpus.allow_multi_gpu_models:
            return self._devices
        preferred = self.catalog.entry(avatar.id).preferred_gpu
        if preferred >= 0 and self._devices[0].is_gpu:
            found = [device for device in self._devices if device.gpu_id == preferred]
            if not found:
                raise BrokenAvatar([f"its preferred_gpu is {preferred}, but there are GPUs 0 to {len(self._devices) - 1}"])
            return found
        strategy = self._settings.gpus.assignment_strategy
        if strategy == "round-robin":
            self._turn += 1
            return [self._devices[(self._turn - 1) % len(self._devices)]]
        taken = {device.gpu_id: self._bytes_on(device) for device in self._devices}
        device = min(self._devices, key=lambda device: taken[device.gpu_id])
        others = [model.avatar.id for model in self._on(device) if model.avatar.id != avatar.id]
        if strategy == "dedicated" and others and not all(model.in_use == 0 for model in self._on(device)):
            raise ResourceExhausted("every GPU is dedicated to another avatar in use", retry_after_ms=RETRY_WHEN_FULL_MS)
        if strategy == "dedicated":
            for other in others:
                self._evict(other, "capacity")
        return [device]

    def _on(self, device: Device) -> list[LoadedModel]:
        return [model for model in self._models.values() if any(engine.device is device for engine in model.engines)]

    def _bytes_on(self, device: Device) -> int:
        return sum(model.memory_bytes for model in self._on(device))

    def _make_room(self, avatar_id: str, *, coming_bytes: int) -> None:
        others = [model for other, model in self._models.items() if other != avatar_id]
        victims = to_make_room(
            others,
            self._settings.capacity.eviction_policy,
            max_models=self.max_models,
            max_bytes=self.max_bytes,
            coming_models=1,
            coming_bytes=coming_bytes,
        )
        if victims is None:
            raise ResourceExhausted(
                "the service is full and every loaded avatar is in use; try again, or raise capacity.max_models or "
                "capacity.max_memory_gb",
                retry_after_ms=RETRY_WHEN_FULL_MS,
            )
        for victim in victims:
            self._evict(victim.avatar.id, "capacity")

    def _trim(self, *, keep: str) -> None:
        """Holds the limits by what was measured, which is known only after a load."""
        policy = self._settings.capacity.eviction_policy
        kept = self._models[keep]
        kept.in_use += 1
        try:
            victims = list(to_make_room(self.loaded, policy, max_models=self.max_models, max_bytes=self.max_bytes) or [])
            limit = int(self._settings.gpus.memory_gb_per_gpu * 2**30)
            for engine in kept.engines:
                victims += to_make_room(self._on(engine.device), policy, max_models=self.max_models, max_bytes=limit) or []
        finally:
            kept.in_use -= 1
        for victim in dict.fromkeys(victims):
            self._evict(victim.avatar.id, "memory")

    def _evict(self, avatar_id: str, reason: str) -> None:
        if self.unload(avatar_id):
            self._metrics.evicted_model(reason)
            log.info("unloaded avatar %s: %s", avatar_id, reason)


def _expected_bytes(avatar: Avatar, devices: Sequence[Device]) -> int:
    crops = avatar.frame_count * CROP_BYTES if devices[0].is_gpu else 0
    return len(devices) * (avatar.network_path.stat().st_size + crops)
