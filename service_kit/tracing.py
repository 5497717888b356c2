"""Records spans of OpenTelemetry, and sends them to a collector when the configuration names one.

The trace travels as `traceparent` (W3C Trace Context) with the ids of `service_kit.request_context`, also through a service that
records none itself. A span that is entered becomes the parent of those that begin in it, in this task and in its threads.

The ready-made instrumentation of gRPC's asyncio servers does not know handlers that write their replies; the interceptor of
`service_kit` calls `call` instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from service_kit.listening import StartError
from service_kit.sections import TracingSection

if TYPE_CHECKING:  # it imports OpenTelemetry, which takes longer than all else that a service imports from here
    from service_kit.span_recorder import Span, SpanRecorder

_recorder: SpanRecorder | None = None


def span(name: str, **attributes: str | int | float) -> AbstractContextManager[Span | None]:
    """Records the block as a span below the running one. Gives the span; None where nothing is recorded.

    An exception that leaves the block marks the span as failed.
    """
    return nullcontext() if _recorder is None else _recorder.entered(name, attributes)


def call(name: str, **attributes: str | int | float) -> AbstractContextManager[Span | None]:
    """Records the block as a call that came in from elsewhere, below its caller's span, as `span` does."""
    return nullcontext() if _recorder is None else _recorder.entered(name, attributes, is_call=True)


def past(name: str, seconds: float, *, ended_s_ago: float = 0.0, **attributes: str | int | float) -> None:
    """Records what took `seconds` and ended `ended_s_ago` seconds ago as a span below the running one."""
    if _recorder is not None:
        _recorder.past(name, seconds, ended_s_ago, attributes)


@contextmanager
def exporting(section: TracingSection, service: str) -> Iterator[None]:
    """Sends the spans of this process to the section's collector while the block runs. Does nothing without one.

    `service` is the `service.name` of OpenTelemetry, after "lipsync-". Spans leave on a thread; those that the collector does not
    take in time are dropped. One block at a time in a process. Raises StartError when the packages are not installed.
    """
    global _recorder  # noqa: PLW0603  # of the process, as its log is
    if not section.endpoint:
        yield
        return
    try:
        from service_kit.span_recorder import SpanRecorder
    except ImportError as error:
        raise StartError(f"tracing.endpoint: package {error.name} is missing; install lipsync-serving[services]") from None
    _recorder = SpanRecorder(section.endpoint, section.sample_ratio, service)
    try:
        yield
    finally:
        recorder, _recorder = _recorder, None
        recorder.close()
