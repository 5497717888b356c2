"""Keeps freed memory of large messages with the process."""

from __future__ import annotations


def tune_malloc() -> bool:
    """Call once at process start. False where there is no glibc; nothing changes then."""
    raise NotImplementedError
