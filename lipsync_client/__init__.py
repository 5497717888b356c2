"""The typed Python client of the compositing API, blocking (`Client`) and asyncio (`AsyncClient`).

with Client("localhost:50052") as client:
    for jpeg in client.frames("demo", sound):  # float32 or int16, mono, 16 kHz
        ...
"""

from __future__ import annotations

from lipsync_client.aio import AsyncClient
from lipsync_client.aio_session import AsyncSession
from lipsync_client.blocking import Client
from lipsync_client.blocking_session import Session
from lipsync_client.cutting import Cut, cut, frame_count
from lipsync_client.errors import LipsyncError, Violation
from lipsync_client.requests import BatchOptions, FrameOptions, IdleOptions, Output, Quality, SessionOutput
from lipsync_client.results import AvatarInfo, AvatarStats, Batch, Health, Loaded, RunningSession, ServerStats, Timings
from lipsync_client.session_config import Idle, Pacing, Resume, SessionOptions
from lipsync_client.session_events import (
    AvatarSwitched,
    Frame,
    GoingAway,
    Interrupted,
    PushedSound,
    Resumed,
    SegmentEnded,
    SessionEvent,
    Started,
    Status,
    SwitchFailed,
)
from lipsync_client.sound import Sound
from lipsync_client.tls import TlsOptions
from shared_proto.timing import FRAME_RATE

__all__ = [
    "FRAME_RATE",
    "AsyncClient",
    "AsyncSession",
    "AvatarInfo",
    "AvatarStats",
    "AvatarSwitched",
    "Batch",
    "BatchOptions",
    "Client",
    "Cut",
    "Frame",
    "FrameOptions",
    "GoingAway",
    "Health",
    "Idle",
    "IdleOptions",
    "Interrupted",
    "LipsyncError",
    "Loaded",
    "Output",
    "Pacing",
    "PushedSound",
    "Quality",
    "Resume",
    "Resumed",
    "RunningSession",
    "SegmentEnded",
    "ServerStats",
    "Session",
    "SessionEvent",
    "SessionOptions",
    "SessionOutput",
    "Sound",
    "Started",
    "Status",
    "SwitchFailed",
    "Timings",
    "TlsOptions",
    "Violation",
    "cut",
    "frame_count",
]
