"""Frames of a session that a test holds."""

from __future__ import annotations

from collections.abc import Iterator

from lipsync_client import Frame


def next_frame(events: Iterator[object]) -> Frame:
    """Waits for the next frame. A busy machine tells of late ones between."""
    return next(event for event in events if isinstance(event, Frame))
