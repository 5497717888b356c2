"""GET /metrics, /health/live and /health/ready, for Prometheus, orchestrators and load balancers.

In threads of its own, so that it answers also when the event loop does not.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from socketserver import ThreadingTCPServer
from typing import Any, Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from service_kit.addresses import BindAddress
from service_kit.listening import places

REQUEST_SECONDS = 5.0
# How soon `close` is noticed.
POLL_SECONDS = 0.1

# Returns None when all is well, else the reason.
Check = Callable[[], str | None]

log = logging.getLogger(__name__)


class HttpEndpoint:
    """Listens from the start of its life; OSError when it cannot. `close` ends it."""

    def __init__(
        self,
        address: BindAddress,
        registry: CollectorRegistry,
        *,
        live: Check,
        ready: Check,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """A connection on which nothing comes or goes for `request_seconds` is closed."""
        checks = {"/health/live": live, "/health/ready": ready}
        handler = type("Handler", (_Handler,), {"registry": registry, "checks": checks, "timeout": request_seconds})
        self._server = _Server(address, handler)
        self.address = BindAddress(address.host, self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="http-endpoint", daemon=True
        )

    def start(self) -> Self:
        """Begins to answer."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stops listening; requests under way are not waited for."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Handler(MetricsHandler):
    """Answers one request, and closes the connection."""

    checks: dict[str, Check]

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._metrics()
        elif path not in self.checks:
            self._answer(404, "only /metrics, /health/live and /health/ready are here")
        elif reason := self.checks[path]():
            self._answer(503, reason)
        else:
            self._answer(200, "ok")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:  # noqa: N802
        self._answer(405, "use GET")

    def _metrics(self) -> None:
        """A figure that cannot be read is told in the log, not by a traceback to whoever asks."""
        try:
            super().do_GET()
        except (ConnectionError, TimeoutError):  # of the one who asks
            raise
        except Exception:
            log.exception("the metrics could not be collected")
            self._answer(500, "the metrics could not be collected; the log tells why")

    def _answer(self, status: int, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: BindAddress, handler: type[_Handler]) -> None:
        self.address_family, place = places(address)[0]
        super().__init__(place, handler)

    def server_bind(self) -> None:
        """Takes IPv4 with IPv6 where the address means all interfaces."""
        if self.address_family == socket.AF_INET6 and hasattr(socket, "IPV6_V6ONLY"):
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Peers that hang up, or take too long, are no error of ours."""
        log.debug("an HTTP request ended early", exc_info=True)
