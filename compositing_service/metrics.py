"""Metrics of the compositing service, beside those that every service has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from compositing_service.backgrounds.store import BackgroundStore
from service_kit.metrics import Metrics

STAGE_LOAD = "load"
STAGE_INFERENCE_WAIT = "inference_wait"
STAGE_COMPOSITE = "composite"
STAGE_ENCODE = "encode"


class CompositingMetrics:
    """The metrics that code of this service writes to."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.registry
        self.frames = metrics.counter("lipsync_compositing_frames_total", "Frames handed out, idle ones included.")
        self.unrested_frames = metrics.counter(
            "lipsync_compositing_unrested_frames_total",
            "Pictures without speech shown as stored because their mouth of silence was not there.",
        )
        self.stages = metrics.stages(
            "lipsync_compositing_stage_seconds",
            "Time by stage: loading a request's avatar, waiting for all its mouths, pasting and encoding a group of frames, "
            "encoding a frame of H.264.",
            (STAGE_LOAD, STAGE_INFERENCE_WAIT, STAGE_COMPOSITE, STAGE_ENCODE),
        )
        self.batch_frames = metrics.counts("lipsync_compositing_batch_frames", "Frames asked for in one request.")
        self.late_requests = metrics.counter(
            "lipsync_compositing_late_requests_total",
            "Requests that took longer than their frames play: without a buffer a viewer sees a stall.",
        )
        self.sessions = metrics.gauge("lipsync_sessions", "Live sessions that run.")
        frames = metrics.counter(
            "lipsync_session_frames_total", "Frames of live sessions, by kind: speech, silent, idle.", ("kind",)
        )
        self.session_frames = {kind: frames.labels(kind) for kind in ("speech", "silent", "idle")}
        self.session_late_frames = metrics.counter(
            "lipsync_session_late_frames_total", "Frames of live sessions that left 40 ms or more after their time."
        )
        self.session_stalls = metrics.counter("lipsync_session_stalls_total", "Times that the sound of a segment ran out.")
        self.session_first_frames = metrics.seconds(
            "lipsync_session_first_frame_seconds", "From when a segment's first frame could be made until it left."
        )
        self.session_interruptions = metrics.counter("lipsync_session_interruptions_total", "Interrupts of live sessions.")
        self.session_resumes = metrics.counter("lipsync_session_resumes_total", "Sessions that went on after they broke.")
        self.session_buffered = metrics.gauge(
            "lipsync_session_buffered_seconds", "Sound received and not shown, of all live sessions."
        )
        self.encoding_places = metrics.gauge(
            "lipsync_session_encoding_places", "Places that sessions with H.264 take, one for each 1280x720 pixels of a frame."
        )
        self.overload = metrics.gauge(
            "lipsync_compositing_overload",
            "How far live sessions are degraded: 0 not at all, 1 larger groups, 2 half rate where allowed, 3 new ones refused.",
        )
        self.upstream_errors = metrics.counter(
            "lipsync_compositing_inference_errors_total",
            "Failed calls of the inference service, by status, retried ones included.",
            ("code",),
        )
        self.upstream_retries = metrics.counter(
            "lipsync_compositing_inference_retries_total", "Calls of the inference service that were tried again."
        )
        self.numerics_changes = metrics.counter(
            "lipsync_compositing_numerics_changes_total",
            "Times that a request or a session got mouths computed in another way than those before them.",
        )
        self.inference_up = metrics.gauge(
            "lipsync_compositing_inference_up", "1 when the inference service last said that it is well."
        )

    def watch_store(self, store: BackgroundStore) -> None:
        """Shows the background store's current figures at each reading of the metrics."""
        self._registry.register(_StoreCollector(store))


@dataclass(eq=False)
class _StoreCollector(Collector):
    """Shows the figures that the store counts."""

    store: BackgroundStore

    def collect(self) -> Iterator[Metric]:
        prefix, store = "lipsync_compositing_cache", self.store
        loaded, cache = store.loaded, store.cache
        frames = sum(lease.value.cached_frames() for lease in loaded)
        yield GaugeMetricFamily(f"{prefix}_bytes", "Memory of all backgrounds.", value=cache.nbytes)
        yield GaugeMetricFamily(f"{prefix}_max_bytes", "What they may take.", value=cache.max_bytes)
        yield GaugeMetricFamily(f"{prefix}_avatars", "Avatars loaded.", value=len(loaded))
        yield GaugeMetricFamily(f"{prefix}_frames", "Backgrounds held encoded.", value=frames)
        resting = sum(lease.value.resting_frames() for lease in loaded)
        yield GaugeMetricFamily(f"{prefix}_resting", "Mouths of silence held beside the backgrounds.", value=resting)
        yield CounterMetricFamily(f"{prefix}_hits", "Frames whose background lay ready.", value=cache.hits)
        yield CounterMetricFamily(f"{prefix}_misses", "Frames whose background was read and encoded first.", value=cache.misses)
        yield CounterMetricFamily(f"{prefix}_evictions", "Backgrounds and mouths dropped to make room.", value=cache.evictions)
        yield CounterMetricFamily(f"{prefix}_avatar_evictions", "Avatars dropped to make room.", value=store.avatar_evictions)
