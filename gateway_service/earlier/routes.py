"""The paths of the earlier servers, and the state that their sockets share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import WSCloseCode, WSMessage, web

from gateway_service.compositors import Compositors
from gateway_service.earlier.answers import Answers
from gateway_service.earlier.socket import EarlierSocket, SocketLimits
from gateway_service.earlier.upstream import EarlierUpstream
from gateway_service.http_face import HttpServer
from gateway_service.identity.callers import Callers
from gateway_service.metrics import GatewayMetrics
from gateway_service.settings import GatewaySettings
from gateway_service.socket_reader import SocketReader
from lipsync_client.earlier import EarlierClient
from service_kit.errors import ServiceError
from service_kit.readiness import Readiness

# The longest request: sound of 50 pieces, in base64.
MAX_MESSAGE_BYTES = 256 << 10
# The protocol's limit, in bytes.
LONGEST_REASON = 123


@dataclass(frozen=True, slots=True)
class EarlierRoutes:
    """Serves the earlier clients on one event loop."""

    settings: GatewaySettings
    answers: Answers
    server: HttpServer
    readiness: Readiness
    metrics: GatewayMetrics
    callers: Callers

    def add_routes(self, application: web.Application) -> None:
        """Adds /health."""
        application.router.add_get("/health", self.show_health)

    def application(self) -> web.Application:
        """Builds what is served on the earlier servers' own ports."""
        application = web.Application()
        self.add_routes(application)
        for path in ("/", "/ws"):  # the direct servers took any path, and their pages have none
            application.router.add_get(path, self.open_socket)
        return application

    async def open_socket(self, request: web.Request) -> web.StreamResponse:
        """Serves a socket from its handshake on."""
        sockets = self.settings.sockets
        socket = web.WebSocketResponse(
            autoping=False,  # the reader answers
            compress=False,
            heartbeat=sockets.ping_seconds,
            max_msg_size=MAX_MESSAGE_BYTES,
        )
        reader = SocketReader(socket)
        with self.server.calls.admit(), self.metrics.sockets.track_inprogress():
            await socket.prepare(request)
            try:
                async with asyncio.timeout(sockets.first_message_seconds):
                    first = await reader.next()
            except TimeoutError:
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"no request came")
            else:
                await self.serve(request, socket, reader, first)
        return socket

    async def serve(self, request: web.Request, socket: web.WebSocketResponse, reader: SocketReader, first: WSMessage) -> None:
        """Serves a socket from its first message on."""
        limits = SocketLimits(self.settings.earlier.idle_seconds, self.settings.sockets.reader_timeout_seconds)
        try:
            await self.callers.of_first_message(request)
            with self.callers.running():
                await EarlierSocket(request, socket, reader, self.answers, limits, self.server.ending).run(first)
        except ServiceError as error:  # who may not ask, or was revoked meanwhile
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=error.message.encode()[:LONGEST_REASON])

    async def show_health(self, _request: web.Request) -> web.Response:
        """Answers GET /health: 503 while no compositing service answers, and while the gateway starts or ends."""
        reason = self.readiness.reason
        body = {
            "healthy": reason is None,
            "status": "SERVING" if reason is None else "NOT_SERVING",
            "total_backends": 1,
            "healthy_count": int(reason is None),
        }
        return web.json_response(body, status=503 if reason else 200, headers={"Cache-Control": "no-store"})


@asynccontextmanager
async def earlier_routes(
    settings: GatewaySettings,
    compositors: Compositors,
    server: HttpServer,
    readiness: Readiness,
    metrics: GatewayMetrics,
    callers: Callers,
) -> AsyncIterator[EarlierRoutes]:
    """Connects to what makes the earlier servers' frames, and gives the routes that hand them on."""

    async def servable() -> list[str]:
        return [avatar.id for avatar in await compositors.client.list_avatars() if not avatar.error]

    upstream = EarlierUpstream(lambda: EarlierClient(compositors.target, tls=compositors.tls, api_key=compositors.api_key))
    try:
        answers = Answers(upstream, servable, metrics.earlier_requests)
        yield EarlierRoutes(settings, answers, server, readiness, metrics, callers)
    finally:
        await upstream.close()
