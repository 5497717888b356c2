"""The gateway's metrics."""

from __future__ import annotations

from service_kit.metrics import Metrics


class GatewayMetrics:
    """Registers the gateway's metrics."""

    def __init__(self, registry: Metrics) -> None:
        self.sessions = registry.gauge("lipsync_gateway_sessions", "Live sessions that run now.")
        self.sockets = registry.gauge("lipsync_gateway_sockets", "WebSockets that are open now, with a session or without.")
        self.refused = registry.counter("lipsync_gateway_refused_total", "Requests that the guard refused.", ("reason",))
        self.connections = registry.gauge("lipsync_gateway_connections", "Connections to the compositing services.")
        self._ended = registry.counter("lipsync_gateway_ended_total", "WebSockets that ended, by the reason.", ("code",))
        self._frames = registry.counter("lipsync_gateway_frames_total", "Frames sent to browsers.")
        self._frame_bytes = registry.counter("lipsync_gateway_frame_bytes_total", "Bytes of the pictures sent to browsers.")
        self._frame_seconds = registry.seconds(
            "lipsync_gateway_frame_seconds", "Time from a frame's arrival to its being written, with waiting for the browser."
        )
        self.resumes = registry.counter(
            "lipsync_gateway_resumes_total", "Times that a session went on with another compositing service."
        )

        self.earlier_requests = registry.counter(
            "lipsync_gateway_earlier_requests_total", "Requests of the earlier servers' clients: met or failed.", ("outcome",)
        )

    def frame(self, seconds: float, picture_bytes: int) -> None:
        """Counts a frame that was sent."""
        self._frames.inc()
        self._frame_bytes.inc(picture_bytes)
        self._frame_seconds.observe(seconds)

    def ended(self, code: str) -> None:
        """Counts a socket that ended."""
        self._ended.labels(code).inc()
