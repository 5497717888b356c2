"""The parts of the service that sessions use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from compositing_service.backgrounds.resting import RestingPictures
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.frame_stream import FrameMaker
from compositing_service.metrics import CompositingMetrics
from compositing_service.mouth_source import MouthSource
from compositing_service.overload import Overload
from compositing_service.sessions.encoding import Encoders
from compositing_service.sessions.limits import SessionLimits
from service_kit.clock import Clock

Send: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Writes an encoded event to the client. Returns when the client has room for another."""


@dataclass(frozen=True, slots=True)
class SessionParts:
    """Those of one process."""

    store: BackgroundStore
    resting: RestingPictures
    source: MouthSource
    maker: FrameMaker
    encoders: Encoders
    metrics: CompositingMetrics
    limits: SessionLimits
    overload: Overload
    clock: Clock
