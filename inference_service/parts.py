"""Puts the parts of the inference service together without a server, so that another process can hold them in itself."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import cv2
from prometheus_client import Counter

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.cores import core_time, usable_cores
from inference_service.engines.devices import Device, DeviceError, find_devices
from inference_service.engines.gpu_memory import visible_gpus
from inference_service.engines.load_cache import LoadCache
from inference_service.limited_threads import LimitedThreads
from inference_service.metrics import InferenceMetrics
from inference_service.models.choosing import EngineChoice, choose_engine
from inference_service.models.model import ModelLoader
from inference_service.models.registry import FORMER_S, ModelRegistry
from inference_service.runner import Runner
from inference_service.scheduling.admission import Admission
from inference_service.scheduling.dispatcher import Dispatcher
from inference_service.scheduling.overload import Overload
from inference_service.session_admission import SessionAdmission
from inference_service.settings import InferenceSettings
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import ServiceError
from service_kit.logs import CACHE_STATS, topic
from service_kit.metrics import Metrics
from service_kit.processor_load import READ_EVERY_S
from service_kit.tasks import beside, every

log = logging.getLogger(__name__)
GPU_UTILIZATION = topic("gpu_utilization")
Periodic: TypeAlias = tuple[float, Callable[[], object]]  # an interval in seconds, and the work

IDLE_CHECK_S = 5.0
GPU_CHECK_S = 10.0
SESSIONS_CHECK_S = 1.0
# The share of its time that a session takes at half rate. On a CPU the rest of each frame takes the same cores.
_HALVED_ON_GPU, _HALVED_ON_CPU = 0.5, 0.75


@dataclass(frozen=True)
class InferenceParts:
    """The parts that make mouths of sound. They live on one event loop."""

    runner: Runner
    registry: ModelRegistry
    devices: Sequence[Device]
    numerics: str  # of networks, unless bfloat16 is too coarse for one
    orders: Counter  # of live sessions over lasting calls, by status
    preload: Callable[[], Awaitable[None]]  # loads the avatars that the configuration asks for; to be called once


@asynccontextmanager
async def inference_parts(
    settings: InferenceSettings, metrics: Metrics, *, on_lost: Callable[[str], None], clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[InferenceParts]:
    """Opens the parts, and closes them at the end of the block, when no request runs any more.

    `on_lost` is called with the reason when only a restart of the process can help: a thread does not return from an avatar's
    network. Raises DeviceError.
    """
    # Crops and mouths are spread over our own threads; those of OpenCV would compete with them.
    cv2.setNumThreads(1)
    devices = find_devices(settings.gpus, settings.onnx)
    choice = choose_engine(settings.engine, settings.precision, devices)
    own_metrics = InferenceMetrics(metrics)
    async with AsyncExitStack() as stack:
        threads = LimitedThreads(usable_cores(), "request", on_lost=on_lost, clock=clock)
        stack.push_async_callback(threads.close)
        loader = _loader(settings, choice)
        catalog = AvatarCatalog(settings.models_root, settings.models, audio_encoder=settings.audio_encoder_path)
        if catalog.warning:
            log.warning("%s", catalog.warning)
        registry = ModelRegistry(catalog, devices, loader, settings, own_metrics, on_lost=on_lost, clock=clock)
        stack.push_async_callback(registry.close)
        admission = _admission(settings, devices, clock)
        overload = Overload(admission, clock)
        due_threads = LimitedThreads(usable_cores(), "due", on_lost=on_lost, clock=clock)
        stack.push_async_callback(due_threads.close)
        dispatchers = {}
        for device in devices:
            dispatcher = dispatchers[device.gpu_id] = Dispatcher(
                device,
                workers=runs_at_once(settings, device),
                max_delay_s=settings.batching.max_delay_ms / 1000,
                run_limit_s=settings.limits.run_seconds,
                admission=admission,
                overload=overload,
                metrics=own_metrics,
                on_overrun=registry.refuse_engine,
                on_lost=on_lost,
                clock=clock,
            )
            dispatcher.start()
            stack.push_async_callback(dispatcher.stop)
        runner = Runner(
            registry,
            dispatchers,
            loader,
            SessionAdmission(registry, dispatchers, admission, overload, own_metrics, clock),
            threads=threads,
            due_threads=due_threads,
            run_limit_s=settings.limits.run_seconds,
            max_requests=settings.server.queue_size * len(devices),
            metrics=own_metrics,
            clock=clock,
        )
        own_metrics.requests.set_function(lambda: runner.requests)
        own_metrics.loaded.set_function(lambda: len(registry.loaded))
        own_metrics.memory.set_function(lambda: registry.placement.memory_bytes)
        for seconds, work in (
            *_of_models(settings, registry),
            *_of_sessions(own_metrics, admission, overload),
            *(_of_gpus(settings, own_metrics, threads) if devices[0].is_gpu else ()),
        ):
            await stack.enter_async_context(beside(every(clock, seconds, work)))
        yield InferenceParts(runner, registry, devices, choice.numerics, own_metrics.orders, lambda: _preload(settings, registry))


def _loader(settings: InferenceSettings, choice: EngineChoice) -> ModelLoader:
    return ModelLoader(
        settings.onnx,
        max_batch=settings.batching.max_batch,
        crops_bytes=int(settings.capacity.crops_gb_per_gpu * 2**30),
        choice=choice,
        cache=LoadCache(settings.cache.place, max_bytes=int(settings.cache.max_gb * 2**30)),
    )


def _admission(settings: InferenceSettings, devices: Sequence[Device], clock: Clock) -> Admission:
    return Admission(
        workers=sum(runs_at_once(settings, device) for device in devices),
        admits_all=settings.limits.admit_sessions == "all",
        halved=_HALVED_ON_GPU if devices[0].is_gpu else _HALVED_ON_CPU,
        clock=clock,
    )


def _of_models(settings: InferenceSettings, registry: ModelRegistry) -> Iterator[Periodic]:
    def log_models() -> None:
        CACHE_STATS.info("models", extra={"loaded": len(registry.loaded), "memory_mb": registry.placement.memory_bytes / 1e6})

    yield IDLE_CHECK_S, registry.unload_idle
    yield FORMER_S, registry.forget_former
    yield settings.logging.report_interval_seconds, log_models


def _of_sessions(metrics: InferenceMetrics, admission: Admission, overload: Overload) -> Iterator[Periodic]:
    def show_sessions() -> None:  # here, as another thread collects the metrics
        metrics.sessions.set(admission.carried)
        metrics.overload.set(overload.level)
        metrics.capacity.set(admission.frames_a_second)
        metrics.processor_load.set(admission.processor_load)

    yield SESSIONS_CHECK_S, show_sessions
    yield READ_EVERY_S, lambda: admission.note_processors(core_time())


def _of_gpus(settings: InferenceSettings, metrics: InferenceMetrics, threads: LimitedThreads) -> Iterator[Periodic]:
    async def measure_gpus() -> None:
        for gpu in await threads.run(visible_gpus):  # the driver may take its time
            metrics.gpu_used.labels(gpu.index).set(gpu.used_bytes)
            metrics.gpu_total.labels(gpu.index).set(gpu.total_bytes)
            if gpu.utilization_percent is not None:  # else the driver does not know it
                metrics.gpu_busy.labels(gpu.index).set(gpu.utilization_percent / 100)

    async def log_gpus() -> None:
        for gpu in await threads.run(visible_gpus):
            figures = {"utilization_percent": gpu.utilization_percent, "used_mb": gpu.used_bytes / 1e6}
            GPU_UTILIZATION.info("gpu", extra={"gpu_id": gpu.index, **figures})

    yield GPU_CHECK_S, measure_gpus
    if settings.logging.log_gpu_utilization:
        yield settings.logging.report_interval_seconds, log_gpus


def runs_at_once(settings: InferenceSettings, device: Device) -> int:
    """Returns the number of a device's batches that run at the same time: on a GPU one for each session of a graph at least."""
    streams = settings.onnx.cuda_streams_per_worker if device.is_gpu else 1
    return max(settings.server.worker_count_per_gpu, streams)


async def _preload(settings: InferenceSettings, registry: ModelRegistry) -> None:
    """Loads the avatars that the configuration asks for. A broken one is logged, and the others are served."""
    for avatar_id, entry in settings.models.items():
        if entry.preload or entry.preload_model:
            try:
                await registry.preload(avatar_id)
            except ServiceError as error:
                log.error("models.%s could not be preloaded: %s", avatar_id, error)
            except DeviceError:
                raise  # no avatar could be served
            except Exception:
                log.exception("models.%s could not be preloaded", avatar_id)
