"""Listing, loading and unloading avatars. Loading and unloading act on both services, and say what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError
from avatar_kit.listing import AvatarListing
from compositing_service.backgrounds.store import AvatarStats, BackgroundStore
from compositing_service.mouth_source import MouthSource
from service_kit.deadline import Deadline
from service_kit.errors import DeadlineExceeded, NotFound, ServiceError, Unavailable, as_service_errors
from shared_proto import compositing_pb2


@dataclass(slots=True)
class ModelAdmin:
    """The model RPCs' work."""

    listing: AvatarListing[compositing_pb2.ModelInfo]
    """With what `described` says."""
    catalog: AvatarCatalog
    store: BackgroundStore
    source: MouthSource
    inference_ms: Mapping[str, float]
    """Time of the network by avatar."""

    async def list_models(self) -> list[compositing_pb2.ModelInfo]:
        """Every avatar there is, those that cannot be served too."""
        loaded = self._stats()
        entries = await self.listing.entries()
        return [self._with_stats(info, loaded[name]) if name in loaded else info for name, info in entries.items()]

    async def stats(self, model_id: str) -> compositing_pb2.GetModelStatsResponse:
        """The store's figures, with one avatar's or (empty id) those of all that are loaded. Raises ServiceError for the one."""
        figures = self.store.stats()
        by_id = {avatar.avatar_id: avatar for avatar in figures.avatars}
        if model_id and model_id not in by_id:
            with as_service_errors(AvatarError, field="model_id"):
                await asyncio.to_thread(self.catalog.get, model_id)
        wanted = [model_id] if model_id else [avatar_id for avatar_id, avatar in by_id.items() if avatar.loaded]
        entries = await self.listing.entries()
        infos = (entries.get(each) or compositing_pb2.ModelInfo(model_id=each) for each in wanted)
        models = [self._with_stats(info, by_id.get(info.model_id)) for info in infos]
        return compositing_pb2.GetModelStatsResponse(
            models=models,
            max_models=figures.max_avatars,
            loaded_models=figures.loaded_avatars,
            total_memory_bytes=figures.memory_bytes,
            max_memory_bytes=figures.max_bytes,
        )

    async def load(self, model_id: str, *, force_reload: bool, deadline: Deadline) -> compositing_pb2.LoadModelResponse:
        """Loads the avatar and its backgrounds here and its network there, at the same time.

        Raises ServiceError when either fails; what the other loaded stays loaded.
        """
        started = perf_counter()
        here, there = await asyncio.gather(
            self._load_here(model_id, force_reload=force_reload),
            self.source.load(model_id, force_reload=force_reload, deadline=deadline),
        )
        for refusal in [here, *there]:
            if isinstance(refusal, ServiceError):
                raise refusal
        stats = self._model_stats(self._stats().get(model_id), model_id)
        return compositing_pb2.LoadModelResponse(success=True, load_time_ms=(perf_counter() - started) * 1000, stats=stats)

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

    async def _load_here(self, model_id: str, *, force_reload: bool) -> AvatarStats | ServiceError:
        try:
            with as_service_errors(AvatarError, field="model_id"):
                return await self.store.load(model_id, force_reload=force_reload, preload=True)
        except ServiceError as error:
            return error

    def _stats(self) -> dict[str, AvatarStats]:
        return {avatar.avatar_id: avatar for avatar in self.store.stats().avatars}

    def _with_stats(self, listed: compositing_pb2.ModelInfo, stats: AvatarStats | None) -> compositing_pb2.ModelInfo:
        """The same with the store's figures."""
        if stats is None:
            return listed
        info = compositing_pb2.ModelInfo(
            loaded=stats.loaded, error=stats.load_error, stats=self._model_stats(stats, listed.model_id)
        )
        info.MergeFrom(listed)
        return info

    def _model_stats(self, stats: AvatarStats | None, avatar_id: str) -> compositing_pb2.ModelStats | None:
        if stats is None:
            return None
        return compositing_pb2.ModelStats(
            usage_count=stats.usage_count,
            last_used_unix_ms=stats.last_used_unix_ms,
            total_inference_time_ms=self.inference_ms.get(avatar_id, 0.0),
            memory_bytes=stats.memory_bytes,
            loaded_unix_ms=stats.loaded_unix_ms,
        )


def described(catalog: AvatarCatalog, avatar_id: str, found: Avatar | AvatarError) -> compositing_pb2.ModelInfo:
    """An avatar as it lies on the disk."""
    if isinstance(found, AvatarError):
        return compositing_pb2.ModelInfo(model_id=avatar_id, error=found.caller_text)
    return compositing_pb2.ModelInfo(
        model_id=avatar_id,
        model_path=catalog.shown(found.network_path),
        background_dir=catalog.shown(found.frames.place),
        crop_rects_path=catalog.shown(found.rects_path) if found.rects_path else "",
        frame_count=found.frame_count,
        width=found.width,
        height=found.height,
        fps=found.fps,
    )
