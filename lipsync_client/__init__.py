"""The typed Python client of the compositing API, blocking (`Client`) and asyncio (`AsyncClient`).

with Client("localhost:50052") as client:
    for jpeg in client.frames("demo", sound):  # float32 or int16, mono, 16 kHz
        ...
"""

from __future__ import annotations

from lipsync_client.aio import AsyncClient
from lipsync_client.blocking import Client
from lipsync_client.cutting import Cut, cut, frame_count
from lipsync_client.errors import LipsyncError, Violation
from lipsync_client.requests import BatchOptions, FrameOptions, IdleOptions, Output, Quality
from lipsync_client.results import AvatarInfo, AvatarStats, Batch, Health, Loaded, ServerStats, Timings
from lipsync_client.sound import Sound
from lipsync_client.tls import TlsOptions
from shared_proto.timing import FRAME_RATE

__all__ = [
    "FRAME_RATE",
    "AsyncClient",
    "AvatarInfo",
    "AvatarStats",
    "Batch",
    "BatchOptions",
    "Client",
    "Cut",
    "FrameOptions",
    "Health",
    "IdleOptions",
    "LipsyncError",
    "Loaded",
    "Output",
    "Quality",
    "ServerStats",
    "Sound",
    "Timings",
    "TlsOptions",
    "Violation",
    "cut",
    "frame_count",
]
