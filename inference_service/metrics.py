"""Counts and measures for the inference service."""

from __future__ import annotations

from service_kit.metrics import Metrics

AUDIO, CROPS, QUEUE, DUE, NETWORK, LOAD = "audio", "crops", "queue", "due", "network", "load"


class InferenceMetrics:
    """The service's own metrics, beside those of every service."""

    def __init__(self, metrics: Metrics) -> None:
        self.stages = metrics.stages(
            "lipsync_inference_stage_seconds",
            "Time of stages: sound to features, missing crops, waiting of batch work and of what is due, a run, a load.",
            (AUDIO, CROPS, QUEUE, DUE, NETWORK, LOAD),
        )
        self.frames = metrics.counter("lipsync_inference_frames_total", "Mouth regions made.", ("gpu_id",))
        self.batch_frames = metrics.counts("lipsync_inference_batch_frames", "Frames in one run of a network.", ("gpu_id",))
        self.queued = metrics.gauge("lipsync_inference_queued_frames", "Frames waiting for a run.", ("gpu_id",))
        self.requests = metrics.gauge("lipsync_inference_requests", "Requests under way or waiting.")
        self.sessions = metrics.gauge("lipsync_inference_sessions", "Live sessions that had a request in the last two seconds.")
        self.overload = metrics.gauge(
            "lipsync_inference_overload",
            "How far live sessions are degraded: 0 not at all, 1 larger groups, 2 half rate where allowed, 3 new ones refused.",
        )
        self.capacity = metrics.gauge(
            "lipsync_inference_capacity_frames_per_second", "Frames a second that all workers make, as measured; 0: not yet."
        )
        self.processor_load = metrics.gauge(
            "lipsync_inference_processor_load",
            "Share of the time that the processors may work which live sessions may take at full rate; 0: not known.",
        )
        self.refused_sessions = metrics.counter(
            "lipsync_inference_refused_sessions_total", "Live sessions refused for want of capacity.", ("admission",)
        )
        self.orders = metrics.counter(
            "lipsync_inference_session_orders_total", "Requests of live sessions over lasting calls, by status.", ("code",)
        )
        self.dropped = metrics.counter(
            "lipsync_inference_dropped_requests_total", "Requests given up before their run.", ("reason",)
        )
        self.loads = metrics.counter("lipsync_model_loads_total", "Avatars loaded.", ("outcome",))
        self.evictions = metrics.counter("lipsync_model_evictions_total", "Avatars unloaded by the service.", ("reason",))
        # All series exist from the start: one that begins with 1 has not increased, so alerts would miss the first event.
        for counter, values in (
            (self.dropped, ("deadline", "cancelled", "full")),
            (self.refused_sessions, ("new", "resumed")),
            (self.loads, ("loaded", "failed")),
            (self.evictions, ("capacity", "memory", "idle")),
        ):
            for value in values:
                counter.labels(value)
        self.loaded = metrics.gauge("lipsync_loaded_models", "Avatars loaded now.")
        self.memory = metrics.gauge("lipsync_model_memory_bytes", "Measured memory of the loaded avatars.")
        self.gpu_used = metrics.gauge("lipsync_gpu_used_memory_bytes", "Memory in use on a GPU, by anyone.", ("gpu_id",))
        self.gpu_total = metrics.gauge("lipsync_gpu_total_memory_bytes", "Memory of a GPU.", ("gpu_id",))
        self.gpu_busy = metrics.gauge("lipsync_gpu_utilization_ratio", "Share of time that a GPU was busy, 0 to 1.", ("gpu_id",))
