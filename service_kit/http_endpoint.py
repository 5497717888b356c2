"""Answers GET /metrics, /health/live and /health/ready, for Prometheus, orchestrators and load balancers.

It has threads of its own, so that it answers also when the event loop hangs.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from functools import partial
from socketserver import ThreadingTCPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from service_kit.addresses import BindAddress
from service_kit.listening import places

REQUEST_SECONDS = 5.0
# The server's loop looks this often for `close`.
POLL_SECONDS = 0.1

# Returns None when all is well, else the reason.
Check = Callable[[], str | None]

log = logging.getLogger(__name__)


class HttpEndpoint(ThreadingTCPServer):
    """Listens and answers from construction to `close`. Raises OSError when it cannot listen."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: BindAddress,
        registry: CollectorRegistry,
        *,
        live: Check,
        ready: Check,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """Closes a connection without traffic for `request_seconds`."""
        checks = {"/health/live": live, "/health/ready": ready}
        self.address_family, place = places(address)[0]
        super().__init__(
            place, type("Handler", (_Handler,), {"registry": registry, "checks": checks, "timeout": request_seconds})
        )
        self.address = BindAddress(address.host, self.server_address[1])
        self._thread = threading.Thread(target=partial(self.serve_forever, POLL_SECONDS), name="http-endpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening. Does not wait for requests under way."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def server_bind(self) -> None:
        """Takes IPv4 with IPv6 where the address means all interfaces."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores peers that hang up or take too long."""
        log.debug("an HTTP request ended early", exc_info=True)


class _Handler(MetricsHandler):
    """Answers one request and closes the connection."""

    checks: dict[str, Check]

    def version_string(self) -> str:
        """Returns the header `Server`, without the versions that the library tells."""
        return "lipsync"

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
        """Answers with the metrics. The traceback of one that cannot be read goes to the log, not to the client."""
        try:
            super().do_GET()
        except (ConnectionError, TimeoutError):  # of the client
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
