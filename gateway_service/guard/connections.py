"""Accepts TCP connections within limits, and answers what is no HTTP as the rest of the service does."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import grpc
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway_service.guard.callers import UNKNOWN, caller_address, is_proxy
from gateway_service.guard.headers import SECURITY_HEADERS
from gateway_service.guard.places import NoPlace, Places
from gateway_service.guard.settings import GuardSection
from gateway_service.problems import Problem, internal

# For browsers with many cookies of the same host; far more is an attack.
MAX_LINE_BYTES, MAX_FIELD_BYTES, MAX_HEADERS = 8190, 8190, 100

log = logging.getLogger(__name__)


class Connections:
    """Makes the protocol of each connection, for `loop.create_server`."""

    def __init__(self, server: web.Server, settings: GuardSection) -> None:
        self._server = server
        self._settings = settings
        self._places = Places(settings.max_connections_per_address, settings.max_connections)

    def __call__(self) -> asyncio.Protocol:
        return _Connection(
            self._server,
            self,
            keepalive_timeout=self._settings.keepalive_seconds,
        )

    def enter(self, transport: asyncio.BaseTransport) -> str | None:
        """Counts a connection. Returns its key for `leave`, None for one too many."""
        peer = transport.get_extra_info("peername")
        host = peer[0] if isinstance(peer, tuple) else None
        proxies = self._settings.trusted_proxies
        key = f"proxy {id(transport)}" if is_proxy(host, proxies) else caller_address(host, (), proxies) if host else UNKNOWN
        try:
            self._places.take(key)
        except NoPlace:
            return None
        return key

    def leave(self, key: str) -> None:
        """Counts the end of a connection."""
        self._places.give_back(key)


class _Connection(RequestHandler):
    __slots__ = ("_connections", "_key")

    def __init__(self, server: web.Server, connections: Connections, *, keepalive_timeout: float) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            auto_decompress=False,  # the few bytes that are read need none
            access_log=None,  # type: ignore[arg-type]  # documented so
            keepalive_timeout=keepalive_timeout,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=1.0,
        )
        self._connections = connections
        self._key: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._key = self._connections.enter(transport)
        if self._key is None:
            cast("asyncio.Transport", transport).abort()
        else:
            super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._key is not None:
            self._connections.leave(self._key)
            super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answers what the parser refused, and errors outside of the application."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        if status < 500:
            log.debug("a request could not be read", exc_info=exc)
            problem = Problem(status, "the request is not well-formed HTTP", code=grpc.StatusCode.INVALID_ARGUMENT)
        elif isinstance(exc, ConnectionError):
            log.debug("the caller went away in the middle of its request")
            problem = internal()
        else:
            log.error("a request failed outside of the application", exc_info=exc)
            problem = internal()
        response = problem.response()
        response.headers.update(SECURITY_HEADERS)
        response.force_close()
        return response
