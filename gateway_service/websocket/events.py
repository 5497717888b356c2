"""Events to browsers, as JSON. docs/websocket.md describes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from lipsync_client import (
    AvatarSwitched,
    Frame,
    GoingAway,
    Interrupted,
    LipsyncError,
    Resumed,
    SegmentEnded,
    SessionEvent,
    Started,
    Status,
    SwitchFailed,
)

_STARTED = (
    "session_id",
    "server_version",
    "fps",
    "width",
    "height",
    "look_ahead_ms",
    "max_buffered_ms",
    "idle_timeout_ms",
    "max_session_ms",
)


def event_text(name: str, **content: Any) -> str:
    """Encodes an event."""
    return json.dumps({name: content}, separators=(",", ":"), allow_nan=False)


def session_text(event: SessionEvent, secret: str) -> str | None:
    """Encodes an event of the session. None: frames, and the end of a compositing service, which browsers survive."""
    content: dict[str, Any]
    match event:
        case Started():
            name, content = "started", {"secret": secret, **_fields(event, _STARTED)}
        case SegmentEnded():
            name, content = "segment_ended", asdict(event)
        case Interrupted():
            name, content = "interrupted", asdict(event)
        case AvatarSwitched():
            name, content = "avatar_switched", {"model_id": event.avatar, **_fields(event, ("number", "width", "height"))}
        case SwitchFailed():
            name, content = "switch_failed", {"model_id": event.avatar, "code": event.code.name, "message": event.message}
        case Status():
            rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(event).items()}
            name, content = "status", {**rounded, "overload": f"OVERLOAD_{event.overload.replace(' ', '_').upper()}"}
        case Resumed():
            name, content = "resumed", {**asdict(event), "seconds": round(event.seconds, 3)}
        case GoingAway() | Frame():
            return None
    return event_text(name, **content)


def jump_text(frame: Frame) -> str | None:
    """Encodes the event before a frame after which the timeline does not go on at the next position; None for others."""
    if frame.next_position == frame.position + 1:
        return None
    return event_text("jump", number=frame.number, next_position=frame.next_position)


def error_text(error: LipsyncError) -> str:
    """Encodes the reason why a session ends."""
    retry = {} if error.retry_after_ms is None else {"retry_ms": error.retry_after_ms}
    return event_text("error", code=error.code.name, message=error.message, **retry)


def _fields(event: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(event, name) for name in names}
