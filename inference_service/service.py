"""The inference service as a whole: its parts put together, started, warmed up and closed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager

from avatar_kit.catalog import AvatarCatalog
from inference_service.engines.devices import Device, DeviceError, find_devices
from inference_service.engines.gpu_memory import visible_gpus
from inference_service.metrics import InferenceMetrics
from inference_service.models.model import ModelLoader
from inference_service.models.registry import ModelRegistry
from inference_service.runner import Runner
from inference_service.scheduling.dispatcher import Dispatcher
from inference_service.servicer import InferenceServicer
from inference_service.settings import InferenceSettings
from service_kit.errors import ServiceError
from service_kit.logs import CACHE_STATS, topic
from service_kit.server import Host, Service, StartError, WarmUp, run_service
from shared_proto.inference_pb2_grpc import add_InferenceServiceServicer_to_server

log = logging.getLogger(__name__)
GPU_UTILIZATION = topic("gpu_utilization")

NAME = "inference"
IDLE_CHECK_S = 5.0
DEFAULT_BATCH = {True: 16, False: 4}  # on a GPU; on a CPU, where larger batches gain nothing and delay the first frame
QUICK_BATCH = {True: 0, False: 12}  # of a network so quick that neither is true


def serve(settings: InferenceSettings) -> int:
    """Runs the service in this process until SIGTERM or SIGINT; the exit code."""
    return run_service(inference_service(settings), settings)


def inference_service(settings: InferenceSettings) -> Service:
    """The service for `service_kit.server` to run."""

    @asynccontextmanager
    async def open_parts(host: Host) -> AsyncIterator[WarmUp]:
        async with AsyncExitStack() as stack:
            yield await _open(settings, host, stack)

    return Service(NAME, ("inference.InferenceService",), open_parts)


async def _open(settings: InferenceSettings, host: Host, stack: AsyncExitStack) -> WarmUp:
    try:
        devices = find_devices(settings.gpus, settings.onnx)
    except DeviceError as error:
        raise StartError(str(error)) from error
    metrics = InferenceMetrics(host.metrics)
    max_batch = settings.batching.max_batch or DEFAULT_BATCH[devices[0].is_gpu]
    dispatchers = {device.gpu_id: _dispatcher(device, settings, max_batch, metrics) for device in devices}
    for dispatcher in dispatchers.values():
        dispatcher.start()
        stack.push_async_callback(dispatcher.stop)
    loader = ModelLoader(settings.onnx, max_batch=max_batch)
    catalog = AvatarCatalog(settings.models_root, settings.models, audio_encoder=settings.audio_encoder_path)
    registry = ModelRegistry(catalog, devices, loader, settings, metrics)
    stack.push_async_callback(registry.close)
    threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="request")
    stack.callback(threads.shutdown)
    runner = Runner(
        registry,
        dispatchers,
        loader,
        threads=threads,
        max_requests=settings.server.queue_size * len(devices),
        metrics=metrics,
    )
    metrics.watch(
        requests=lambda: runner.requests, models=lambda: len(registry.loaded), memory_bytes=lambda: registry.memory_bytes
    )
    servicer = InferenceServicer(runner, registry, devices, host.readiness, settings.limits)
    add_InferenceServiceServicer_to_server(servicer, host.server)
    reports = _reports(settings, devices, registry, metrics)
    stack.push_async_callback(_cancelled, [asyncio.create_task(_repeat(seconds, work)) for seconds, work in reports])
    return lambda: _preload(settings, registry)


def _dispatcher(device: Device, settings: InferenceSettings, max_batch: int, metrics: InferenceMetrics) -> Dispatcher:
    return Dispatcher(
        device,
        workers=settings.server.worker_count_per_gpu,
        max_batch=max_batch,
        quick_batch=0 if settings.batching.max_batch else QUICK_BATCH[device.is_gpu],
        max_delay_s=settings.batching.max_delay_ms / 1000,
        metrics=metrics,
    )


async def _preload(settings: InferenceSettings, registry: ModelRegistry) -> None:
    """Loads what the configuration wants loaded. A broken avatar is logged and does not keep the others from being served."""
    for avatar_id, entry in settings.models.items():
        if entry.preload or entry.preload_model:
            try:
                await registry.load(avatar_id, fill=True)
            except ServiceError as error:
                log.error("models.%s could not be preloaded: %s", avatar_id, error)


def _reports(
    settings: InferenceSettings, devices: Sequence[Device], registry: ModelRegistry, metrics: InferenceMetrics
) -> list[tuple[float, Callable[[], None]]]:
    """What is done again and again, and how often (seconds)."""

    def look_at_gpus() -> None:
        for gpu in visible_gpus():
            metrics.gpu(
                gpu.index, used_bytes=gpu.used_bytes, total_bytes=gpu.total_bytes, utilization=gpu.utilization_percent / 100
            )
            GPU_UTILIZATION.info(
                "gpu",
                extra={"gpu_id": gpu.index, "utilization_percent": gpu.utilization_percent, "used_mb": gpu.used_bytes / 1e6},
            )

    def look_at_models() -> None:
        CACHE_STATS.info("models", extra={"loaded": len(registry.loaded), "memory_mb": registry.memory_bytes / 1e6})

    interval = settings.logging.report_interval_seconds
    reports: list[tuple[float, Callable[[], None]]] = [(IDLE_CHECK_S, registry.unload_idle), (interval, look_at_models)]
    if devices[0].is_gpu:
        reports.append((interval, look_at_gpus))
    return reports


async def _repeat(seconds: float, work: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        work()


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
