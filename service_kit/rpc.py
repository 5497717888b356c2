"""Counts, traces and logs the calls of one RPC."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from prometheus_client import Counter, Histogram

from service_kit import tracing
from service_kit.logs import CALLS, request_is_sampled
from service_kit.metrics import Metrics

if TYPE_CHECKING:  # see service_kit.tracing
    from service_kit.span_recorder import Span

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs alone

_INFRASTRUCTURE = ("/grpc.health.", "/grpc.reflection.")


def is_infrastructure(path: str) -> bool:
    """Tells if a path, "/package.Service/Method", is of health or reflection."""
    return path.startswith(_INFRASTRUCTURE)


@dataclass(frozen=True, slots=True)
class Rpc:
    """An RPC with its series of the metrics."""

    path: str  # "/package.Service/Method"
    is_infrastructure: bool  # no work of the service, and streams that may stay open without end
    started: Counter
    seconds: Histogram
    handled: Callable[[grpc.StatusCode], Counter]

    @classmethod
    def of(cls, path: str, kind: str, metrics: Metrics) -> Rpc:
        """Returns the RPC of a path. `kind` is its label in metrics, such as "unary"."""
        labels = (kind, *path.lstrip("/").rpartition("/")[::2])
        by_code: dict[grpc.StatusCode, Counter] = {}

        def handled(code: grpc.StatusCode) -> Counter:
            if code not in by_code:
                by_code[code] = metrics.grpc_handled.labels(*labels, code.name)
            return by_code[code]

        started, seconds = metrics.grpc_started.labels(*labels), metrics.grpc_seconds.labels(*labels)
        return cls(path, is_infrastructure(path), started, seconds, handled)

    def traced(self) -> AbstractContextManager[Span | None]:
        """Returns the span of a call, to enter. Infrastructure has none: nobody looks for it, and some of it never ends."""
        return nullcontext() if self.is_infrastructure else tracing.call(self.path.lstrip("/"), **{"rpc.system.name": "grpc"})

    def ended(self, context: Context, code: grpc.StatusCode, seconds: float) -> None:
        """Counts and logs the end of a call."""
        self.handled(code).inc()
        self.seconds.observe(seconds)
        level = logging.DEBUG if code is grpc.StatusCode.OK else logging.INFO
        if self.is_infrastructure or not CALLS.isEnabledFor(level) or not request_is_sampled():
            return
        fields = {"method": self.path, "code": code.name, "duration_ms": seconds * 1000, "peer": context.peer()}
        details = context.details()  # the caller gets this text too, so it is fit for the log
        CALLS.log(level, "call ended", extra=fields | ({"status": details} if details else {}))
