"""The web application: what is served at the gateway's port."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway_service.api import about, avatars, description, health, streams
from gateway_service.guard.guard import HEALTH_PATHS
from gateway_service.identity import routes as tickets
from gateway_service.page import routes as page
from gateway_service.parts import PARTS, GatewayParts
from gateway_service.webrtc import routes as webrtc
from gateway_service.websocket import session_socket
from service_kit import request_context, tracing
from service_kit.errors import Unavailable
from service_kit.request_context import TRACEPARENT_KEY

REQUEST_ID = "X-Request-Id"


def build_application(parts: GatewayParts) -> web.Application:
    """Builds the application with the routes of all modules."""
    application = web.Application(middlewares=[_identified])
    application[PARTS] = parts
    parts.guard.install(application)
    application.middlewares.append(parts.callers.middleware)
    application.middlewares.append(_counted)
    application.middlewares.append(parts.holders.middleware)
    application.on_cleanup.append(_close)
    for module in (health, description, about, avatars, streams, webrtc, page, tickets, session_socket):
        module.add_routes(application)
    parts.earlier.add_routes(application)
    return application


async def _close(application: web.Application) -> None:
    await application[PARTS].holders.close()


@web.middleware
async def _identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the request its id, the caller's own if it may be used, and its place in a trace."""
    given = request.headers.get(REQUEST_ID, "")
    request_context.request_id.set(given if request_context.sane_id(given) else request_context.new_request_id())
    trace = request.headers.get(TRACEPARENT_KEY, "")
    request_context.traceparent.set(trace if request_context.sane_id(trace) else "")
    resource = request.match_info.route.resource
    route = resource.canonical if resource else ""  # not the path: some have secrets
    if request.path in HEALTH_PATHS:
        return await handler(request)
    with tracing.call(f"{request.method} {route}".strip(), **{"http.request.method": request.method, "http.route": route}):
        return await handler(request)


@web.middleware
async def _counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses requests over the limit, and sockets while the gateway ends. Health checks are always answered."""
    parts = request.app[PARTS]
    if request.path in HEALTH_PATHS:
        return await handler(request)
    if parts.draining.is_set() and request.path == session_socket.PATH:
        raise Unavailable("the gateway shuts down; connect to another one")
    with parts.server.calls.admit():
        return await handler(request)
