"""Puts the compositing service together.

Ready means: the avatars that were to be preloaded are. Whether the inference service can be reached is not part of it: no replica
would be better than another, and all would leave the balancer at once. The Health RPC and the metrics tell it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import cv2

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.batch import BatchCompositor
from compositing_service.metrics import CompositingMetrics
from compositing_service.model_admin import ModelAdmin
from compositing_service.request import RequestRules
from compositing_service.servicer import CompositingServicer
from compositing_service.settings import CompositingSettings
from compositing_service.upstream.health import UpstreamHealth
from compositing_service.upstream.inference_client import InferenceClient
from compositing_service.upstream.mouths import MOUTH_BYTES
from service_kit.errors import ServiceError
from service_kit.logs import CACHE_STATS
from service_kit.server import Host, Service, WarmUp, run_service
from service_kit.tls import ClientTls, tls_problems
from shared_proto import compositing_pb2
from shared_proto.compositing_pb2_grpc import add_CompositingServiceServicer_to_server

_SECONDS_PER_MINUTE = 60.0
# How late an idle avatar may go, as a share of its idle time.
_IDLE_CHECKS = 10
# Of a message of mouths, what is not mouths.
_REGION_OVERHEAD_BYTES = 64 << 10
_TLS_KEY = "inference_server.tls"
_FORMATS = {"jpeg": compositing_pb2.FORMAT_JPEG, "raw": compositing_pb2.FORMAT_RAW_BGR}

_log = logging.getLogger(__name__)


def serve(settings: CompositingSettings) -> int:
    """Runs the service in this process until it is told to stop. Returns the exit code."""
    return run_service(compositing_service(settings), settings)


def compositing_service(settings: CompositingSettings) -> Service:
    """The service, for `service_kit.server`."""
    return Service(
        name="compositing",
        grpc_services=("compositing.CompositingService",),
        open=partial(_open, settings),
        problems=partial(tls_problems, settings.inference_server.tls, key=_TLS_KEY),
    )


@asynccontextmanager
async def _open(settings: CompositingSettings, host: Host) -> AsyncIterator[WarmUp]:
    # Frames are spread over our own threads; OpenCV's would only get in their way.
    cv2.setNumThreads(1)
    metrics = CompositingMetrics(host.metrics)
    catalog = AvatarCatalog(settings.models_root, settings.models)
    async with AsyncExitStack() as resources:
        pool = ThreadPoolExecutor(settings.workers.thread_count, thread_name_prefix="composite")
        resources.callback(pool.shutdown, cancel_futures=True)
        store = _store(settings, catalog)
        resources.push_async_callback(store.close)
        upstream_tls = settings.inference_server.tls
        tls = ClientTls(upstream_tls, host.metrics, key=_TLS_KEY) if upstream_tls.is_on else None
        client = InferenceClient(
            settings.inference_server.endpoints,
            timeout_s=settings.inference_server.timeout_seconds,
            max_retries=settings.inference_server.max_retries,
            max_message_bytes=settings.limits.max_batch_size * MOUTH_BYTES + _REGION_OVERHEAD_BYTES,
            metrics=metrics,
            tls=tls,
        )
        resources.push_async_callback(client.close)
        metrics.watch_store(store.stats)
        upstream = UpstreamHealth(client.endpoints, metrics=metrics)
        servicer = _servicer(settings, host, catalog, store, client, upstream, pool, metrics)
        add_CompositingServiceServicer_to_server(servicer, host.server)
        tasks = [asyncio.create_task(upstream.watch()), *_periodic_tasks(settings, store)]
        if tls:
            tasks.append(asyncio.create_task(tls.follow(client.reconnect)))
        for task in tasks:
            resources.push_async_callback(_cancelled, task)
        yield partial(_preload, settings, store, client)


def _store(settings: CompositingSettings, catalog: AvatarCatalog) -> BackgroundStore:
    capacity = settings.capacity
    return BackgroundStore(
        catalog,
        max_bytes=settings.max_memory_bytes,
        max_avatars=capacity.max_models,
        frames_per_avatar=capacity.background_cache_frames,
        policy=capacity.eviction_policy,
        default_quality=settings.output.jpeg_quality,
        idle_timeout_s=capacity.idle_timeout_minutes * _SECONDS_PER_MINUTE or None,
    )


def _servicer(
    settings: CompositingSettings,
    host: Host,
    catalog: AvatarCatalog,
    store: BackgroundStore,
    client: InferenceClient,
    upstream: UpstreamHealth,
    pool: ThreadPoolExecutor,
    metrics: CompositingMetrics,
) -> CompositingServicer:
    batches = BatchCompositor(store, client, pool, metrics, max_reply_bytes=settings.max_message_bytes)
    return CompositingServicer(
        batches=batches,
        admin=ModelAdmin(catalog, store, client, inference_ms=batches.inference_ms),
        upstream=upstream,
        readiness=host.readiness,
        rules=RequestRules(
            max_batch_size=settings.limits.max_batch_size,
            max_audio_seconds=settings.limits.max_audio_seconds,
            jpeg_quality=settings.output.jpeg_quality,
            output_format=_FORMATS[settings.output.format],
        ),
        inference_url=settings.inference_server.url,
    )


async def _preload(settings: CompositingSettings, store: BackgroundStore, client: InferenceClient) -> None:
    """Connects, and loads the avatars that the configuration names for it."""
    client.connect()
    named = [avatar_id for avatar_id, entry in settings.models.items() if entry.preload_backgrounds]
    await asyncio.gather(*(_preload_one(avatar_id, store) for avatar_id in named))


async def _preload_one(avatar_id: str, store: BackgroundStore) -> None:
    """A broken avatar is reported, and keeps no other one from being served."""
    try:
        stats = await store.load(avatar_id, preload=True)
    except (AvatarError, ServiceError) as error:
        _log.error("avatar %s was not preloaded: %s", avatar_id, error)
    else:
        _log.info("avatar %s is loaded: %d frames, %d bytes", avatar_id, stats.cached_frames, stats.memory_bytes)


def _periodic_tasks(settings: CompositingSettings, store: BackgroundStore) -> list[asyncio.Task[None]]:
    tasks = []
    if idle_s := settings.capacity.idle_timeout_minutes * _SECONDS_PER_MINUTE:
        tasks.append(asyncio.create_task(_every(idle_s / _IDLE_CHECKS, store.unload_idle)))
    if CACHE_STATS.isEnabledFor(logging.INFO):
        tasks.append(asyncio.create_task(_every(settings.logging.report_interval_seconds, partial(_report, store))))
    return tasks


async def _every(seconds: float, work: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            work()
        except Exception:  # the next turn may do better, and nothing else depends on this one
            _log.exception("periodic work failed")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _report(store: BackgroundStore) -> None:
    stats = store.stats()
    CACHE_STATS.info(
        "backgrounds",
        extra={
            "avatars": stats.loaded_avatars,
            "bytes": stats.memory_bytes,
            "hits": stats.hits,
            "misses": stats.misses,
            "evictions": stats.evictions,
            "avatar_evictions": stats.avatar_evictions,
        },
    )
