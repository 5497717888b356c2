"""The parts of the gateway that its handlers use, all on one event loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from gateway_service.compositors import Compositors
from gateway_service.earlier.routes import EarlierRoutes
from gateway_service.guard.guard import Guard
from gateway_service.holders import Holders
from gateway_service.http_face import HttpServer
from gateway_service.identity.callers import Callers
from gateway_service.metrics import GatewayMetrics
from gateway_service.running_sessions import RunningSessions
from gateway_service.settings import GatewaySettings
from gateway_service.speaking import Speaker
from service_kit.clock import Clock
from service_kit.readiness import Liveness, Readiness


@dataclass(frozen=True, slots=True)
class GatewayParts:
    """The parts of the gateway; handlers find them at their application as PARTS."""

    settings: GatewaySettings
    metrics: GatewayMetrics
    readiness: Readiness
    liveness: Liveness
    compositors: Compositors
    sessions: RunningSessions
    earlier: EarlierRoutes
    speech: Speaker
    server: HttpServer
    holders: Holders
    guard: Guard
    callers: Callers
    draining: asyncio.Event
    """Set when the gateway begins to end: sessions are told to go elsewhere."""
    clock: Clock


PARTS = web.AppKey("PARTS", GatewayParts)
