"""Structured logs on stderr, formatted and written off the hot path."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from service_kit.sections import LoggingSection

# Loggers behind the log_* switches: `if INFERENCE_TIMES.isEnabledFor(logging.INFO) and request_is_sampled(): INFERENCE_TIMES.info(
# "inference", extra={"queue_ms": 1.5})`. Fields given as `extra` become keys of the line.
INFERENCE_TIMES = logging.getLogger("lipsync.inference_times")
COMPOSITING_TIMES = logging.getLogger("lipsync.compositing_times")
GPU_UTILIZATION = logging.getLogger("lipsync.gpu_utilization")
CACHE_STATS = logging.getLogger("lipsync.cache_stats")


@contextmanager
def configure_logging(section: LoggingSection, service: str) -> Iterator[None]:
    """Sends all log lines of the process to stderr as `section` says until the block ends; then everything waiting is written."""
    raise NotImplementedError


def request_is_sampled() -> bool:
    """Whether info lines about the current request are to be written (logging.sample_rate)."""
    raise NotImplementedError
