"""Structured logs on stderr, formatted and written off the hot path.

A log call notes the ids of the request and puts the record into a bounded queue. One thread formats and writes. When it cannot
keep up, lines are dropped and counted; callers are never held up.

Each switch `logging.log_*` has a logger:

    TIMES = topic("inference_times")

    if TIMES.isEnabledFor(logging.INFO) and request_is_sampled():
        TIMES.info("inferred", extra={"queue_ms": 1.5})

The keys of `extra` become fields of the line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

from service_kit import request_context
from service_kit.log_formats import JsonLines, TextLines
from service_kit.log_writing import StreamWriter, WritingThread
from service_kit.sections import LoggingSection

_SWITCH = "log_"


def topic(name: str) -> logging.Logger:
    """Returns the logger whose info lines `logging.log_<name>` switches on."""
    return logging.getLogger(f"lipsync.{name}")


# Each call's end: info when it failed, debug when it did not.
CALLS = topic("calls")
CACHE_STATS = topic("cache_stats")
# Packages that write debug lines; "lipsync" are the topics.
_OURS = {
    *("avatar_kit", "avatar_tools", "compositing_service", "gateway_service", "inference_service", "lipsync", "lipsync_adapters"),
    *("lipsync_cli", "lipsync_client", "monolithic_service", "service_kit", "shared_proto"),
}
# gRPC logs a traceback here for each header of a caller's that is no UTF-8, takes it as Latin-1, and goes on.
_GRPC = logging.getLogger("grpc._cython.cygrpc")
# aioice tells each step of a viewer's connection, a dozen lines with addresses.
_ICE = logging.getLogger("aioice")


def request_is_sampled() -> bool:
    """Returns True where info lines about the current request are written (logging.sample_rate), and outside of requests."""
    return request_context.sampled.get()


@contextmanager
def configure_logging(section: LoggingSection, service: str, *, stream: TextIO | None = None) -> Iterator[None]:
    """Sends all log lines of the process to `stream` (None: stderr) until the block ends.

    Then writes the waiting lines and restores the configuration before. One block at a time in a process.
    """
    handler: logging.Handler = StreamWriter(stream or sys.stderr)
    handler.setFormatter(JsonLines(service) if section.format == "json" else TextLines(service))
    topics = {topic(name.removeprefix(_SWITCH)): is_on for name, is_on in section if name.startswith(_SWITCH)}
    root = logging.getLogger()
    handlers_before, levels_before = root.handlers[:], {each: each.level for each in (root, _ICE, *topics)}
    with ExitStack() as stack:
        if section.buffered_logging:
            thread = WritingThread(handler, auto_flush=section.auto_flush, interval_s=section.flush_interval_ms / 1000)
            thread.start()
            stack.callback(thread.stop)
            handler = thread.handler
        handler.addFilter(_note_request)
        _GRPC.addFilter(_is_worth_a_line)
        stack.callback(_GRPC.removeFilter, _is_worth_a_line)
        handler.addFilter(_is_of_ours)
        root.handlers[:] = [handler]
        root.setLevel(section.level.upper())
        _ICE.setLevel(logging.NOTSET if root.isEnabledFor(logging.DEBUG) else logging.WARNING)
        for each, is_on in topics.items():
            each.setLevel(logging.NOTSET if is_on else logging.WARNING)
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            for each, level in levels_before.items():
                each.setLevel(level)
            root.handlers[:] = handlers_before


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Leaves out what any caller could have written as often as it likes."""
    return not str(record.msg).startswith("Invalid encoding on")


def _is_of_ours(record: logging.LogRecord) -> bool:
    """Leaves out the debug lines of libraries: some show what came and went, such as the passwords of WebRTC's connections."""
    return record.levelno > logging.DEBUG or record.name.partition(".")[0] in _OURS


def _note_request(record: logging.LogRecord) -> bool:
    """Adds the ids of the request: the writing thread has another context. Lets every line pass."""
    vars(record).update({variable.name: variable.get() for variable in request_context.IDS.values()})
    return True
