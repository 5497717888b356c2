"""Builds the parts of the compositing service, without a server: each kind of server passes requests to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError
from avatar_kit.listing import REFRESH_S, AvatarListing
from compositing_service.backgrounds.resting import RestingPictures
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.frame_stream import FrameMaker
from compositing_service.metrics import CompositingMetrics
from compositing_service.model_admin import ModelAdmin, described
from compositing_service.mouth_source import MouthSource
from compositing_service.overload import Overload
from compositing_service.request import RequestRules
from compositing_service.sessions.encoding import Encoders
from compositing_service.sessions.limits import SessionLimits
from compositing_service.sessions.parts import SessionParts
from compositing_service.sessions.running import Sessions
from compositing_service.settings import CompositingSettings
from compositing_service.unary import BatchCompositor
from compositing_service.upstream.inference_client import InferenceClient
from service_kit.callers.outgoing import OutgoingKey
from service_kit.clock import Clock
from service_kit.errors import ServiceError
from service_kit.limits.opening import store_of
from service_kit.limits.quotas import Quotas
from service_kit.logs import CACHE_STATS
from service_kit.metrics import Metrics
from service_kit.tasks import beside, every
from service_kit.tls import ClientTls
from shared_proto import compositing_pb2

UPSTREAM_TLS_KEY = "inference_server.tls"

_SECONDS_PER_MINUTE = 60.0
# Idle avatars are unloaded up to this much later, as a share of the idle time.
_IDLE_CHECKS = 10
# The metric of the inference service's health stays current without calls of Health.
_HEALTH_CHECKS_S = 5.0
_OVERLOAD_CHECKS_S = 1.0
# Sessions that leave end so much before the service cuts them off.
_LEAVING_MARGIN_S = 1.0
# Leaves about half of a core for all else.
_H264_PLACES_A_CORE = 3
_FORMATS = {"jpeg": compositing_pb2.FORMAT_JPEG, "raw": compositing_pb2.FORMAT_RAW_BGR}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CompositingParts:
    """The parts that servers use; all on one event loop."""

    store: BackgroundStore
    source: MouthSource
    maker: FrameMaker
    resting: RestingPictures
    batches: BatchCompositor
    admin: ModelAdmin
    rules: RequestRules
    sessions: Sessions
    quotas: Quotas
    preloaded: tuple[str, ...]
    """The avatars to load at the start, from the configuration."""

    async def preload(self) -> None:
        """Loads those avatars. A broken one is logged; the others are served."""
        await asyncio.gather(*map(self._preload, self.preloaded))

    async def _preload(self, avatar_id: str) -> None:
        try:
            composer = (await self.store.load(avatar_id, preload=True)).value
        except (AvatarError, ServiceError) as error:
            log.error("avatar %s was not preloaded: %s", avatar_id, error)
        except Exception:
            log.exception("avatar %s was not preloaded", avatar_id)
        else:
            log.info("avatar %s is loaded: %d frames, %d bytes", avatar_id, composer.cached_frames(), composer.memory_bytes())


@asynccontextmanager
async def compositing_parts(
    settings: CompositingSettings, registry: Metrics, *, clock: Clock, source: MouthSource | None = None
) -> AsyncIterator[CompositingParts]:
    """Opens the parts, and closes them at the end. `source` makes mouths in place of the inference service."""
    # Frames are spread over our own threads; those of OpenCV would compete with them.
    cv2.setNumThreads(1)
    metrics = CompositingMetrics(registry)
    catalog = AvatarCatalog(settings.models_root, settings.models)
    async with AsyncExitStack() as resources:
        pool = ThreadPoolExecutor(settings.workers.thread_count, thread_name_prefix="composite")
        resources.callback(pool.shutdown, cancel_futures=True)
        store = _store(settings, catalog, clock)
        resources.push_async_callback(store.close)
        metrics.watch_store(store)
        if source is None:
            if catalog.warning:  # beside inference in one process, that tells of it
                log.warning("%s", catalog.warning)
            source = await resources.enter_async_context(_inference_service(settings, registry, metrics, clock))
        else:
            metrics.inference_up.set(1)
        overload = Overload(clock)
        maker = FrameMaker(pool, metrics, overload, clock)
        resting = RestingPictures(source, pool, metrics, clock=clock)
        batches = BatchCompositor(store, source, maker, resting, metrics, max_reply_bytes=settings.max_message_bytes, clock=clock)
        listing = AvatarListing(catalog, partial(described, catalog))
        resources.callback(listing.close)
        for seconds, work in (
            *_periodic(settings, store, source, listing),
            (_OVERLOAD_CHECKS_S, lambda: metrics.overload.set(overload.level)),
        ):
            await resources.enter_async_context(beside(every(clock, seconds, work)))
        rules = RequestRules(
            max_batch_size=settings.limits.max_batch_size,
            max_audio_seconds=settings.limits.max_audio_seconds,
            jpeg_quality=settings.output.jpeg_quality,
            output_format=_FORMATS[settings.output.format],
        )
        limits = await resources.enter_async_context(store_of(settings.quotas.store, clock, registry))
        quotas = Quotas(settings.quotas, limits, clock, registry)
        await resources.enter_async_context(beside(quotas.follow()))
        encoders = _encoders(settings, metrics)
        resources.callback(encoders.pool.shutdown, cancel_futures=True)
        parts = SessionParts(store, resting, source, maker, encoders, metrics, _session_limits(settings), overload, clock)
        sessions = Sessions(parts, rules, quotas)
        await resources.enter_async_context(beside(sessions.watch()))
        yield CompositingParts(
            store=store,
            source=source,
            maker=maker,
            resting=resting,
            batches=batches,
            admin=ModelAdmin(listing, catalog, store, source, inference_ms=batches.inference_ms),
            rules=rules,
            sessions=sessions,
            quotas=quotas,
            preloaded=tuple(avatar_id for avatar_id, entry in settings.models.items() if entry.preload_backgrounds),
        )


def _encoders(settings: CompositingSettings, metrics: CompositingMetrics) -> Encoders:
    """Makes the encoders of video. On threads of their own: making a frame would wait long behind encoding one."""
    threads, places = settings.workers.thread_count, settings.sessions.max_h264
    pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")
    return Encoders(_H264_PLACES_A_CORE * threads if places is None else places, pool, metrics)


def _session_limits(settings: CompositingSettings) -> SessionLimits:
    section = settings.sessions
    return SessionLimits(
        max_buffered_s=section.max_buffered_seconds,
        idle_timeout_s=section.idle_timeout_seconds,
        max_session_s=section.max_seconds,
        reader_timeout_s=section.reader_timeout_seconds,
        patience_s=section.inference_timeout_seconds,
        leaving_s=max(0.0, settings.server.drain_seconds + settings.server.grace_seconds - _LEAVING_MARGIN_S),
    )


def _store(settings: CompositingSettings, catalog: AvatarCatalog, clock: Clock) -> BackgroundStore:
    capacity = settings.capacity
    return BackgroundStore(
        catalog,
        max_bytes=settings.max_memory_bytes,
        max_avatars=capacity.max_models,
        frames_per_avatar=capacity.background_cache_frames,
        policy=capacity.eviction_policy,
        default_quality=settings.output.jpeg_quality,
        idle_timeout_s=capacity.idle_timeout_minutes * _SECONDS_PER_MINUTE or None,
        clock=clock,
    )


@asynccontextmanager
async def _inference_service(
    settings: CompositingSettings, registry: Metrics, metrics: CompositingMetrics, clock: Clock
) -> AsyncIterator[InferenceClient]:
    """Opens the connection to the inference service; it begins to connect at once."""
    section = settings.inference_server
    tls = ClientTls(section.tls, registry, key=UPSTREAM_TLS_KEY, clock=clock) if section.tls.is_on else None
    key = OutgoingKey(section.api_key_file, key="inference_server.api_key_file", clock=clock)
    client = InferenceClient(
        section.endpoints,
        timeout_s=section.timeout_seconds,
        max_retries=section.max_retries,
        max_frames=settings.limits.max_batch_size,
        metrics=metrics,
        tls=tls,
        clock=clock,
        credential=key.metadata,
    )
    try:
        client.connect()
        async with beside(key.follow()), beside(tls.follow(client.reconnect)) if tls else nullcontext():
            yield client
    finally:
        await client.close()


def _periodic(
    settings: CompositingSettings, store: BackgroundStore, source: MouthSource, listing: AvatarListing[Any]
) -> Iterator[tuple[float, Callable[[], object]]]:
    """Yields the periodic work, each with its interval in seconds."""
    yield _HEALTH_CHECKS_S, source.healthy
    yield REFRESH_S, listing.refresh
    if idle_s := settings.capacity.idle_timeout_minutes * _SECONDS_PER_MINUTE:
        yield idle_s / _IDLE_CHECKS, store.unload_idle
    if CACHE_STATS.isEnabledFor(logging.INFO):
        yield settings.logging.report_interval_seconds, partial(_report, store)


def _report(store: BackgroundStore) -> None:
    cache = store.cache
    held = {"avatars": len(store.loaded), "bytes": cache.nbytes}
    counts = {"hits": cache.hits, "misses": cache.misses, "evictions": cache.evictions}
    CACHE_STATS.info("backgrounds", extra={**held, **counts, "avatar_evictions": store.avatar_evictions})
