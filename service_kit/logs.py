"""Structured logs on stderr, formatted and written off the hot path.

A log call notes who is served, and puts the record into a bounded queue; one thread formats and writes. When that thread cannot
keep up, lines are dropped and counted rather than callers held up.

The loggers below stand behind the log_* switches:

    if INFERENCE_TIMES.isEnabledFor(logging.INFO) and request_is_sampled():
        INFERENCE_TIMES.info("inferred", extra={"queue_ms": 1.5})

What is given as `extra` becomes fields of the line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from service_kit import request_context
from service_kit.log_formats import JsonLines, TextLines
from service_kit.log_writing import LineWriter, WritingThread, note_request
from service_kit.sections import LoggingSection

# Each call's end: info where it failed, debug where it did not.
CALLS = logging.getLogger("lipsync.calls")
INFERENCE_TIMES = logging.getLogger("lipsync.inference_times")
COMPOSITING_TIMES = logging.getLogger("lipsync.compositing_times")
GPU_UTILIZATION = logging.getLogger("lipsync.gpu_utilization")
CACHE_STATS = logging.getLogger("lipsync.cache_stats")


def request_is_sampled() -> bool:
    """Whether info lines about the current request are to be written (logging.sample_rate); true outside of requests."""
    return request_context.sampled.get()


@contextmanager
def configure_logging(section: LoggingSection, service: str, *, stream: TextIO | None = None) -> Iterator[None]:
    """Sends all log lines of the process to `stream` (stderr) as `section` says until the block ends.

    Then everything that waits is written, and what was configured before is in force again. One block at a time in a process.
    """
    writer = LineWriter(
        stream or sys.stderr,
        JsonLines(service) if section.format == "json" else TextLines(service),
        wait_s=None if not section.buffered_logging else 0.0 if section.auto_flush else section.flush_interval_ms / 1000,
    )
    root = logging.getLogger()
    before, level_before = root.handlers[:], root.level
    topics_before = {topic: topic.level for topic in _topics(section)}
    with _entrance(section, writer) as handler:
        root.handlers[:] = [handler]
        root.setLevel(section.level.upper())
        for topic, wanted in _topics(section).items():
            topic.setLevel(logging.NOTSET if wanted else logging.WARNING)
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            for topic, level in topics_before.items():
                topic.setLevel(level)
            root.setLevel(level_before)
            root.handlers[:] = before


def _topics(section: LoggingSection) -> dict[logging.Logger, bool]:
    return {
        INFERENCE_TIMES: section.log_inference_times,
        COMPOSITING_TIMES: section.log_compositing_times,
        GPU_UTILIZATION: section.log_gpu_utilization,
        CACHE_STATS: section.log_cache_stats,
    }


@contextmanager
def _entrance(section: LoggingSection, writer: LineWriter) -> Iterator[logging.Handler]:
    """The handler that log calls run into."""
    if not section.buffered_logging:
        writer.addFilter(note_request)
        yield writer
        return
    thread = WritingThread(writer)
    thread.start()
    try:
        yield thread.entrance
    finally:
        thread.finish()
