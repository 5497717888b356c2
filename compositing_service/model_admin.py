"""Lists, loads and unloads avatars. Loading and unloading act on both services, and report the result of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError
from avatar_kit.listing import AvatarListing
from compositing_service.backgrounds.store import AvatarLease, BackgroundStore
from compositing_service.mouth_source import MouthSource
from service_kit.deadline import Deadline
from service_kit.errors import DeadlineExceeded, NotFound, ServiceError, Unavailable, as_service_errors
from shared_proto import compositing_pb2


@dataclass(slots=True)
class ModelAdmin:
    """Does the work of the model RPCs."""

    listing: AvatarListing[bytes]
    """The avatars, as `described` makes them."""
    catalog: AvatarCatalog
    store: BackgroundStore
    source: MouthSource
    inference_ms: Mapping[str, float]
    """Time of the network by avatar."""

    async def list_models(self, may_use: Callable[[str], bool]) -> bytes:
        """Lists the avatars that may be used, also those that cannot be served: the encoded reply.

        Of ten thousand avatars a reply made of messages would hold up live frames.
        """
        entries = await self.listing.entries()
        noted = {*(lease.key for lease in self.store.loaded), *self.store.load_errors}
        anew = {each: _encoded(self._with_stats(_info(each, entries))) for each in noted if each in entries}
        return b"".join(listed for each, listed in {**entries, **anew}.items() if may_use(each))

    async def stats(self, model_id: str) -> compositing_pb2.GetModelStatsResponse:
        """Returns the store's figures, with those of one avatar or (empty id) of all loaded. Raises ServiceError for the one."""
        loaded = sorted(lease.key for lease in self.store.loaded)
        if model_id and model_id not in {*loaded, *self.store.load_errors}:
            with as_service_errors(AvatarError, field="model_id"):
                await asyncio.to_thread(self.catalog.get, model_id)
        entries = await self.listing.entries()
        infos = (_info(each, entries) for each in ([model_id] if model_id else loaded))
        return compositing_pb2.GetModelStatsResponse(
            models=[self._with_stats(info) for info in infos],
            max_models=self.store.max_avatars,
            loaded_models=len(loaded),
            total_memory_bytes=self.store.cache.nbytes,
            max_memory_bytes=self.store.cache.max_bytes,
        )

    async def load(self, model_id: str, *, force_reload: bool, deadline: Deadline) -> compositing_pb2.LoadModelResponse:
        """Loads the avatar and its backgrounds here and its network there, at the same time.

        Raises ServiceError when either fails; the part that the other loaded stays loaded.
        """
        started = perf_counter()
        here, there = await asyncio.gather(
            self._load_here(model_id, force_reload=force_reload),
            self.source.load(model_id, force_reload=force_reload, deadline=deadline),
        )
        for refusal in [here, *there]:
            if isinstance(refusal, ServiceError):
                raise refusal
        return compositing_pb2.LoadModelResponse(
            success=True, load_time_ms=(perf_counter() - started) * 1000, stats=self._stats(model_id)
        )

    async def unload(self, model_id: str, *, deadline: Deadline) -> compositing_pb2.UnloadModelResponse:
        """Unloads the avatar in both services.

        Raises NotFound when neither had it; the inference service's error when that fails, after unloading here.
        """
        was_loaded = await self.store.unload(model_id)
        there = await self.source.unload(model_id, deadline=deadline)
        failures = [result for result in there if isinstance(result, ServiceError)]
        for failure in failures:
            if isinstance(failure, Unavailable | DeadlineExceeded):
                here = "was unloaded here" if was_loaded else "was not loaded here"
                raise type(failure)(f"the avatar {here} and may still be loaded in the other service: {failure.message}")
            if not isinstance(failure, NotFound):
                raise failure
        if not was_loaded and len(failures) == len(there):
            raise failures[0]
        return compositing_pb2.UnloadModelResponse(success=True)

    async def _load_here(self, model_id: str, *, force_reload: bool) -> AvatarLease | ServiceError:
        try:
            with as_service_errors(AvatarError, field="model_id"):
                return await self.store.load(model_id, force_reload=force_reload, preload=True)
        except ServiceError as error:
            return error

    def _with_stats(self, listed: compositing_pb2.ModelInfo) -> compositing_pb2.ModelInfo:
        """Returns a copy with the store's figures of the avatar."""
        avatar_id = listed.model_id
        loaded, error = self.store.find(avatar_id) is not None, self.store.load_errors.get(avatar_id, "")
        if not loaded and not error:
            return listed
        info = compositing_pb2.ModelInfo(loaded=loaded, error=error, stats=self._stats(avatar_id))
        info.MergeFrom(listed)
        return info

    def _stats(self, avatar_id: str) -> compositing_pb2.ModelStats:
        lease = self.store.find(avatar_id)
        stats = compositing_pb2.ModelStats(total_inference_time_ms=self.inference_ms.get(avatar_id, 0.0))
        if lease:
            stats.usage_count, stats.memory_bytes = lease.usage_count, lease.value.memory_bytes()
            stats.last_used_unix_ms = round(lease.last_used_unix_s * 1000)
            stats.loaded_unix_ms = round(lease.opened_unix_s * 1000)
        return stats


def described(catalog: AvatarCatalog, avatar_id: str, found: Avatar | AvatarError) -> bytes:
    """Describes an avatar on disk by an encoded list of it alone. One list after the other is one list of all."""
    if isinstance(found, AvatarError):
        return _encoded(compositing_pb2.ModelInfo(model_id=avatar_id, error=found.caller_text))
    info = compositing_pb2.ModelInfo(
        model_id=avatar_id,
        model_path=catalog.shown(found.network_path),
        background_dir=catalog.shown(found.frames.place),
        crop_rects_path=catalog.shown(found.rects_path) if found.rects_path else "",
        frame_count=found.frame_count,
        width=found.width,
        height=found.height,
        fps=found.fps,
    )
    return _encoded(info)


def _encoded(info: compositing_pb2.ModelInfo) -> bytes:
    return compositing_pb2.ListModelsResponse(models=[info]).SerializeToString()


def _info(avatar_id: str, entries: Mapping[str, bytes]) -> compositing_pb2.ModelInfo:
    """Returns what is listed of an avatar; of one that is not, its id."""
    listed = entries.get(avatar_id)
    if listed is None:
        return compositing_pb2.ModelInfo(model_id=avatar_id)
    return compositing_pb2.ListModelsResponse.FromString(listed).models[0]
