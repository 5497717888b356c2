"""Makes spans with OpenTelemetry's SDK. `service_kit.tracing` imports it where a collector is configured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service_kit.request_context import TRACEPARENT_KEY, traceparent
from service_kit.version import product_version

__all__ = ["Span", "SpanRecorder"]

Attributes: TypeAlias = Mapping[str, str | int | float]

# The last spans may take so long to leave when the process ends. A collector that is gone must not hold it up.
_FLUSH_MS = 1000


class SpanRecorder:
    """Gives spans to a collector: of one of `sample_ratio` traces, but of a caller's trace as the caller decided."""

    def __init__(self, endpoint: str, sample_ratio: float, service: str) -> None:
        resource = Resource.create({"service.name": f"lipsync-{service}", "service.version": product_version()})
        self._provider = TracerProvider(ParentBasedTraceIdRatio(sample_ratio), resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_FLUSH_MS / 1000)))
        self._tracer = self._provider.get_tracer("lipsync", product_version())
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def entered(self, name: str, attributes: Attributes, *, is_call: bool = False) -> Iterator[Span]:
        """Records the block, and makes it the parent of the spans in it."""
        kind = SpanKind.SERVER if is_call else SpanKind.INTERNAL
        span = self._tracer.start_span(name, self._parent(), kind, attributes)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        before = traceparent.set(carrier.get(TRACEPARENT_KEY, ""))
        try:
            yield span
        except BaseException as error:
            # Its text is for logs: traces go to another place.
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            traceparent.reset(before)
            span.end()

    def past(self, name: str, seconds: float, ended_s_ago: float, attributes: Attributes) -> None:
        """Records what has ended."""
        end_ns = time.time_ns() - round(ended_s_ago * 1e9)
        span = self._tracer.start_span(name, self._parent(), attributes=attributes, start_time=end_ns - round(seconds * 1e9))
        span.end(end_ns)

    def close(self) -> None:
        """Sends what is left, if the collector takes it in time."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()

    def _parent(self) -> Context:
        """Returns the running code's place in a trace; an empty one, which begins a trace, where it has none that can be read."""
        return self._propagator.extract({TRACEPARENT_KEY: traceparent.get()}, Context())
