"""Counts and measures for the inference service."""

from __future__ import annotations

from collections.abc import Callable

from service_kit.metrics import Metrics

AUDIO, CROPS, QUEUE, NETWORK, LOAD = "audio", "crops", "queue", "network", "load"


class InferenceMetrics:
    """The service's own metrics, beside those of every service."""

    def __init__(self, metrics: Metrics) -> None:
        self.stages = metrics.stages(
            "lipsync_inference_stage_seconds",
            "Time of stages: sound to features, crops that were missing, waiting, a run of the network, a load.",
            (AUDIO, CROPS, QUEUE, NETWORK, LOAD),
        )
        self._frames = metrics.counter("lipsync_inference_frames_total", "Mouth regions made.", ("gpu_id",))
        self._batch_frames = metrics.counts("lipsync_inference_batch_frames", "Frames in one run of a network.", ("gpu_id",))
        self._queued = metrics.gauge("lipsync_inference_queued_frames", "Frames waiting for a run.", ("gpu_id",))
        self._requests = metrics.gauge("lipsync_inference_requests", "Requests under way or waiting.")
        self._dropped = metrics.counter(
            "lipsync_inference_dropped_requests_total", "Requests given up before their run.", ("reason",)
        )
        self._loads = metrics.counter("lipsync_model_loads_total", "Avatars loaded.", ("outcome",))
        self._evictions = metrics.counter("lipsync_model_evictions_total", "Avatars unloaded by the service.", ("reason",))
        # All series exist from the start: one that begins with 1 has not increased, so alerts would miss the first event.
        for counter, values in (
            (self._dropped, ("deadline", "cancelled", "full")),
            (self._loads, ("loaded", "failed")),
            (self._evictions, ("capacity", "memory", "idle")),
        ):
            for value in values:
                counter.labels(value)
        self._loaded = metrics.gauge("lipsync_loaded_models", "Avatars loaded now.")
        self._memory = metrics.gauge("lipsync_model_memory_bytes", "Measured memory of the loaded avatars.")
        self._gpu_used = metrics.gauge("lipsync_gpu_used_memory_bytes", "Memory in use on a GPU, by anyone.", ("gpu_id",))
        self._gpu_total = metrics.gauge("lipsync_gpu_total_memory_bytes", "Memory of a GPU.", ("gpu_id",))
        self._gpu_busy = metrics.gauge("lipsync_gpu_utilization_ratio", "Share of time that a GPU was busy, 0 to 1.", ("gpu_id",))

    def ran_batch(self, gpu_id: int, frames: int, seconds: float) -> None:
        """Notes one run of a network."""
        self._frames.labels(gpu_id).inc(frames)
        self._batch_frames.labels(gpu_id).observe(frames)
        self.stages.observe(NETWORK, seconds)

    def queued_frames(self, gpu_id: int, frames: int) -> None:
        """Notes how many frames wait for a device."""
        self._queued.labels(gpu_id).set(frames)

    def dropped_request(self, reason: str) -> None:
        """Notes a request that was given up: "deadline", "cancelled" or "full"."""
        self._dropped.labels(reason).inc()

    def loaded_model(self, seconds: float | None) -> None:
        """Notes a load and its time; None for one that failed."""
        self._loads.labels("failed" if seconds is None else "loaded").inc()
        if seconds is not None:
            self.stages.observe(LOAD, seconds)

    def evicted_model(self, reason: str) -> None:
        """Notes an avatar that made room ("capacity", "memory") or was idle ("idle")."""
        self._evictions.labels(reason).inc()

    def watch(self, *, requests: Callable[[], int], models: Callable[[], int], memory_bytes: Callable[[], int]) -> None:
        """Names the functions that give the gauges' values when they are read."""
        self._requests.set_function(requests)
        self._loaded.set_function(models)
        self._memory.set_function(memory_bytes)

    def gpu(self, gpu_id: int, *, used_bytes: int, total_bytes: int, percent: int | None) -> None:
        """Notes the memory of a GPU and the share of time that it was busy; None where the driver does not know it."""
        self._gpu_used.labels(gpu_id).set(used_bytes)
        self._gpu_total.labels(gpu_id).set(total_bytes)
        if percent is not None:
            self._gpu_busy.labels(gpu_id).set(percent / 100)
