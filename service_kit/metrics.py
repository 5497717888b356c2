"""Prometheus metrics of one service, in a registry of its own, so that several services can live in one process.

Usual dashboards know the grpc_server_* names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a JPEG splice (0.2 ms) to a model load (tens of seconds).
STAGE_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
# From an empty reply to a long stream.
CALL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
# Batch sizes and queue depths: powers of two and values between.
COUNT_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)


class Metrics:
    """Registers the metrics of one service. Names are full metric names: `lipsync_inference_batches_total`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.counter = partial(Counter, registry=self.registry)
        self.gauge = partial(Gauge, registry=self.registry)
        self.seconds = partial(Histogram, registry=self.registry, buckets=STAGE_BUCKETS_S)
        """Makes a histogram of durations from 0.1 ms to 30 s."""
        self.counts = partial(Histogram, registry=self.registry, buckets=COUNT_BUCKETS)
        """Makes a histogram of small whole numbers: batch sizes, queue depths."""
        # Memory, CPU seconds, open files, start time.
        prometheus_client.ProcessCollector(registry=self.registry)
        rpc = ("grpc_type", "grpc_service", "grpc_method")
        self.grpc_started = self.counter("grpc_server_started_total", "Calls that began.", rpc)
        self.grpc_handled = self.counter("grpc_server_handled_total", "Calls that ended, by status.", (*rpc, "grpc_code"))
        self.grpc_seconds = self.seconds(
            "grpc_server_handling_seconds", "Time from the start of a call to its end.", rpc, buckets=CALL_BUCKETS_S
        )
        self.certificate_expiry = self.gauge(
            "lipsync_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, in Unix seconds: the one shown to clients, or to servers.",
            ("side",),
        )

    def watch_calls(self, running: Callable[[], int], *, limit: int) -> None:
        """Shows the number of running calls and its limit, for autoscalers and alerts."""
        self.gauge("lipsync_running_calls", "Calls that run now, without health checks and reflection.").set_function(running)
        self.gauge("lipsync_max_running_calls", "How many may run at the same time.").set(limit)

    def stages(self, name: str, documentation: str, stages: Sequence[str]) -> dict[str, Histogram]:
        """Returns histograms of durations by `stage`. All are there from the start, so that observing one costs no look-up."""
        histogram = self.seconds(name, documentation, ("stage",))
        return {stage: histogram.labels(stage) for stage in stages}
