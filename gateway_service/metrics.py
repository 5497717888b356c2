"""The gateway's metrics."""

from __future__ import annotations

from service_kit.metrics import Metrics


class GatewayMetrics:
    """Registers the gateway's metrics."""

    def __init__(self, registry: Metrics) -> None:
        self.sessions = registry.gauge("lipsync_gateway_sessions", "Live sessions that run now.")
        self.sockets = registry.gauge("lipsync_gateway_sockets", "WebSockets that are open now, with a session or without.")
        self.frames = registry.counter("lipsync_gateway_frames_total", "Frames sent to browsers.")
