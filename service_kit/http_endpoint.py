"""GET /metrics, /health/live and /health/ready, for Prometheus, orchestrators and load balancers.

In threads of its own, so that it answers also when the event loop does not. The interface is open to whoever reaches the port:
requests have little time, connections are few, and when there are too many the oldest goes, so that slow ones keep nobody out.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from service_kit.addresses import BindAddress

MAX_CONNECTIONS = 32
REQUEST_SECONDS = 5.0
# How soon `close` is noticed.
POLL_SECONDS = 0.1

# None when all is well, else the reason.
Check = Callable[[], str | None]

log = logging.getLogger(__name__)


class HttpEndpoint:
    """Listens from the start of its life; OSError when it cannot. `close` ends it."""

    def __init__(self, address: BindAddress, registry: CollectorRegistry, *, live: Check, ready: Check) -> None:
        self._server = _Server(address)
        self._server.set_app(_app(registry, {"/health/live": live, "/health/ready": ready}))
        self.address = BindAddress(address.host, self._server.server_port)
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


def _app(registry: CollectorRegistry, checks: dict[str, Check]) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    metrics = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return _guarded(metrics, environ, start_response)
        if path not in checks:
            return _answer(start_response, "404 Not Found", "only /metrics, /health/live and /health/ready are here")
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _answer(start_response, "405 Method Not Allowed", "use GET")
        reason = checks[path]()
        return _answer(start_response, "503 Service Unavailable", reason) if reason else _answer(start_response, "200 OK", "ok")

    return app


def _guarded(metrics: Any, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A figure that cannot be read is told in the log, not by a traceback to whoever asks."""
    try:
        body: Iterable[bytes] = metrics(environ, start_response)
    except Exception:
        log.exception("the metrics could not be collected")
        return _answer(start_response, "500 Internal Server Error", "the metrics could not be collected; the log tells why")
    return body


def _answer(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    start_response(status, headers)
    return [body]


class _Handler(WSGIRequestHandler):
    """One request a connection."""

    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Scrapes are not worth a line."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: BindAddress) -> None:
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, None] = {}  # in order of arrival
        self.address_family, place = _family_and_place(address)
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        """As the library does, without asking the DNS for our own name."""
        if self.address_family == socket.AF_INET6 and hasattr(socket, "IPV6_V6ONLY"):
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Makes room by hanging up on the oldest connection."""
        with self._lock:
            self._connections[request] = None
            oldest = next(iter(self._connections)) if len(self._connections) > MAX_CONNECTIONS else None
            if oldest is not None:
                del self._connections[oldest]
        if oldest is not None:
            _hang_up(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """One connection less."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Peers that hang up, or take too long, are no error of ours."""
        log.debug("an HTTP request ended early", exc_info=True)


def _hang_up(connection: socket.socket) -> None:
    """Wakes the thread that serves it, which then closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _family_and_place(address: BindAddress) -> tuple[socket.AddressFamily, tuple[str, int]]:
    if address.is_wildcard:
        return (socket.AF_INET6, ("::", address.port)) if socket.has_dualstack_ipv6() else (socket.AF_INET, ("", address.port))
    family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    return family, (str(place[0]), address.port)
