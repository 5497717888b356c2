"""The gRPC face. Checks requests, passes them on and keeps to their deadlines. Interceptors turn errors into statuses."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError
from avatar_kit.ids import check_avatar_id
from avatar_kit.listing import AvatarListing
from inference_service.engines.devices import CPU_DEVICE_ID, Device
from inference_service.engines.gpu_memory import visible_gpus
from inference_service.models.model import LoadedModel
from inference_service.models.registry import ModelRegistry
from inference_service.mouths import Mouths
from inference_service.request import MouthRequest, check_encode_request, check_infer_request
from inference_service.runner import Runner
from inference_service.scheduling.jobs import MouthGroup
from inference_service.session_orders import OrderCall, OrderRules, SendMouths
from inference_service.settings import LimitsSection
from service_kit import request_context
from service_kit.callers import caller as callers
from service_kit.callers.caller import check_avatar
from service_kit.deadline import HasTimeRemaining, within_deadline
from service_kit.errors import NotFound, as_service_errors
from service_kit.leases import Lease
from service_kit.logs import request_is_sampled, topic
from service_kit.readiness import Readiness
from service_kit.version import product_version
from shared_proto import inference_pb2 as pb
from shared_proto import mouth_region
from shared_proto.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server

INFERENCE_TIMES = topic("inference_times")
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True, eq=False)
class InferenceServicer(InferenceServiceServicer):
    """inference.InferenceService."""

    runner: Runner
    registry: ModelRegistry
    listing: AvatarListing[bytes]
    """With what `described` says."""
    devices: Sequence[Device]
    numerics: str
    """Numerics of networks, unless bfloat16 is too coarse for one."""
    readiness: Readiness
    limits: LimitsSection
    rules: OrderRules

    def register(self, server: Any) -> None:
        """Adds it to a grpc.aio.Server that has not started."""
        add_InferenceServiceServicer_to_server(self, server)
        # A lasting call encodes its replies itself, and one message that cannot be decoded must have a reason.
        stream: Any = grpc.stream_stream_rpc_method_handler(self.InferSessions)
        server.add_registered_method_handlers("inference.InferenceService", {"InferSessions": stream})

    async def InferBatch(self, request: pb.InferBatchRequest, context: Context) -> pb.InferBatchResponse:
        response = pb.InferBatchResponse(success=True, gpu_id=CPU_DEVICE_ID)

        async with self._running(request, context) as (_, groups):
            async for group, mouths in groups:
                sizes = mouths.sizes or [(0, 0)] * len(group.mouths)
                response.outputs.extend(
                    pb.RawMouthRegion(data=mouth.tobytes(), width=width, height=height)
                    for mouth, (width, height) in zip(mouths.each(), sizes, strict=True)
                )
                response.inference_time_ms += group.run_seconds * 1000
                response.audio_processing_ms = group.audio_seconds * 1000
                response.queue_time_ms = max(response.queue_time_ms, group.queue_seconds * 1000)
                response.worker_id, response.gpu_id = group.worker_id, group.gpu_id
                response.numerics = mouths.numerics
        return response

    # Writes instead of yielding: a yield would leave the deadline's scope while gRPC waits for a slow reader.
    async def InferStream(self, request: pb.InferBatchRequest, context: Context) -> None:  # type: ignore[override]  # it writes
        async def send(fields: pb.MouthRegion, mouths: memoryview) -> None:
            await self.runner.readers.taken(context.write(mouth_region.encode(fields, mouths)))

        await self._send_mouths(request, context, send)

    async def InferSessions(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]  # it writes
        await OrderCall(context, self._send_mouths, self.rules).serve()

    async def EncodeAudio(self, request: pb.EncodeAudioRequest, context: Context) -> pb.EncodeAudioResponse:
        with self.runner.admitted(due=request.due_in_ms > 0):
            async with within_deadline(context, limit_s=self.limits.request_seconds):
                checked = await self.runner.checked(functools.partial(check_encode_request, request, self.limits), request)
                encoded, seconds = await self.runner.encode(checked)
        rows, silent = encoded.wire()
        return pb.EncodeAudioResponse(
            feature_rows=rows,
            first_row=checked.first_row,
            row_count=len(encoded.rows),
            audio_processing_ms=seconds * 1000,
            silent=silent,
        )

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> bytes:  # type: ignore[override]  # the reply, encoded
        entries = await self.listing.entries()
        may_use = callers.current.get().may_use
        # Of ten thousand avatars a reply made of messages would hold up live frames.
        anew = {each: _encoded(self._info(each, entries[each])) for each in self.registry.noted if each in entries}
        return b"".join(listed for each, listed in {**entries, **anew}.items() if may_use(each))

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        avatar_id = _checked_id(request.model_id)
        async with within_deadline(context, limit_s=self.limits.request_seconds):
            before = self.registry.find(avatar_id)
            lease = await self.registry.load(avatar_id, force_reload=request.force_reload)
        load_ms = 0.0 if lease is before else lease.value.load_seconds * 1000
        model = lease.value
        return pb.LoadModelResponse(
            success=True,
            load_time_ms=load_ms,
            stats=_stats(lease),
            numerics=model.numerics,
            psnr_db=model.psnr_db,
            run_sizes=model.engines[0].run_sizes,
        )

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        avatar_id = _checked_id(request.model_id)
        if not self.registry.unload(avatar_id) and not await self.runner.on_thread(lambda: self.registry.catalog.has(avatar_id)):
            raise NotFound(f"no avatar {avatar_id}")
        return pb.UnloadModelResponse(success=True)

    async def GetModelStats(self, request: pb.GetModelStatsRequest, context: Context) -> pb.GetModelStatsResponse:
        if request.model_id:
            avatar_id = _checked_id(request.model_id)
            listed = (await self.listing.entries()).get(avatar_id)
            if listed is None and self.registry.find(avatar_id) is None:
                raise NotFound(f"no avatar {avatar_id}")
            infos = [self._info(avatar_id, listed or b"")]
        else:
            infos = [self._loaded_info(lease) for lease in self.registry.loaded]
        return pb.GetModelStatsResponse(
            models=infos,
            max_models=self.registry.placement.max_models,
            loaded_models=len(self.registry.loaded),
            total_memory_bytes=self.registry.placement.memory_bytes,
            max_memory_bytes=self.registry.placement.max_bytes,
        )

    async def Health(self, request: pb.HealthRequest, context: Context) -> pb.HealthResponse:
        healthy = self.readiness.reason is None
        if not callers.current.get().is_known:
            return pb.HealthResponse(healthy=healthy)
        gpus = await self.runner.on_thread(visible_gpus) if self.devices[0].is_gpu else []
        on_gpu = {device.gpu_id for device in self.devices}
        loaded = self.registry.loaded
        return pb.HealthResponse(
            healthy=healthy,
            cuda_available=self.devices[0].is_gpu,
            loaded_models=len(loaded),
            max_models=self.registry.placement.max_models,
            gpu_count=len(gpus),
            version=product_version(),
            numerics=self.numerics,
            gpus=[
                pb.GPUInfo(
                    gpu_id=gpu.index,
                    name=gpu.name,
                    total_memory_bytes=gpu.total_bytes,
                    used_memory_bytes=gpu.used_bytes,
                    loaded_models=sum(
                        any(engine.device.gpu_id == gpu.index for engine in lease.value.engines) for lease in loaded
                    ),
                )
                for gpu in gpus
                if gpu.index in on_gpu
            ],
        )

    async def _send_mouths(self, request: pb.InferBatchRequest, caller: HasTimeRemaining, send: SendMouths) -> None:
        """Makes the mouths of a request, and sends each group. Raises ServiceError."""
        async with self._running(request, caller) as (checked, groups):
            mouth_format = pb.FLOAT32_BGR if checked.want_float else pb.UINT8_BGR
            async for group, mouths in groups:
                rows, silent = mouths.new_rows.wire() if mouths.new_rows else (b"", b"")
                fields = pb.MouthRegion(
                    first_frame=group.first,
                    frame_count=len(group.mouths),
                    mouth_format=mouth_format,
                    inference_time_ms=group.run_seconds * 1000,
                    audio_processing_ms=group.audio_seconds * 1000,
                    queue_time_ms=group.queue_seconds * 1000,
                    worker_id=group.worker_id,
                    gpu_id=group.gpu_id,
                    widths=[width for width, _ in mouths.sizes],
                    heights=[height for _, height in mouths.sizes],
                    feature_rows=rows,
                    silent=silent,
                    numerics=mouths.numerics,
                    overload=mouths.overload,
                )
                await send(fields, mouths.data.data)

    @asynccontextmanager
    async def _running(
        self, request: pb.InferBatchRequest, caller: HasTimeRemaining
    ) -> AsyncIterator[tuple[MouthRequest, AsyncIterator[tuple[MouthGroup, Mouths]]]]:
        """Admits a request, and gives it as checked with its groups as they are made. Ends it at its deadline."""
        request_context.avatar_id.set(request.model_id if request_context.sane_id(request.model_id) else "")
        check_avatar(request.model_id)
        started = time.monotonic()
        with self.runner.admitted(due=request.due_in_ms > 0):
            async with within_deadline(caller, limit_s=self.limits.request_seconds) as deadline:
                checked = await self.runner.checked(functools.partial(check_infer_request, request, self.limits), request)
                async with aclosing(self.runner.mouths(checked, deadline_s=deadline.at_s)) as groups:
                    yield checked, groups
        if INFERENCE_TIMES.isEnabledFor(logging.INFO) and request_is_sampled():
            INFERENCE_TIMES.info(
                "inferred", extra={"frames": checked.batch_size, "total_ms": (time.monotonic() - started) * 1000}
            )

    def _info(self, avatar_id: str, listed: bytes) -> pb.ModelInfo:
        """Describes an avatar that may be loaded. `listed`, from `described`, describes its files."""
        lease = self.registry.find(avatar_id)
        if lease is not None:
            return self._loaded_info(lease)
        if reason := self.registry.refusal(avatar_id):
            return pb.ModelInfo(model_id=avatar_id, gpu_id=CPU_DEVICE_ID, error=reason)
        return pb.ListModelsResponse.FromString(listed).models[0] if listed else pb.ModelInfo()

    def _loaded_info(self, lease: Lease[LoadedModel]) -> pb.ModelInfo:
        return pb.ModelInfo(
            model_id=lease.key,
            loaded=True,
            model_path=self.registry.catalog.shown(lease.value.avatar.network_path),
            stats=_stats(lease),
            gpu_id=lease.value.engines[0].device.gpu_id,
        )


def described(catalog: AvatarCatalog, avatar_id: str, found: Avatar | AvatarError) -> bytes:
    """Describes an avatar on disk by an encoded list of it alone. One list after the other is one list of all."""
    if isinstance(found, AvatarError):
        return _encoded(pb.ModelInfo(model_id=avatar_id, gpu_id=CPU_DEVICE_ID, error=found.caller_text))
    return _encoded(pb.ModelInfo(model_id=avatar_id, model_path=catalog.shown(found.network_path), gpu_id=CPU_DEVICE_ID))


def _encoded(info: pb.ModelInfo) -> bytes:
    return pb.ListModelsResponse(models=[info]).SerializeToString()


def _stats(lease: Lease[LoadedModel]) -> pb.ModelStats:
    return pb.ModelStats(
        usage_count=lease.usage_count,
        last_used_unix_ms=round(lease.last_used_unix_s * 1000),
        total_inference_time_ms=lease.value.total_inference_ms,
        memory_bytes=lease.value.memory_bytes,
        loaded_unix_ms=round(lease.opened_unix_s * 1000),
    )


def _checked_id(model_id: str) -> str:
    with as_service_errors(AvatarError, field="model_id"):
        checked = check_avatar_id(model_id)
    check_avatar(checked)
    return checked
