"""The web application: what is served at the gateway's port."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway_service.api import health
from gateway_service.page import routes as page
from gateway_service.parts import PARTS, GatewayParts
from gateway_service.websocket import session_socket
from service_kit import request_context
from service_kit.errors import ResourceExhausted

REQUEST_ID = "X-Request-Id"
_UNCOUNTED = (*health.PATHS, "/health")


def build_application(parts: GatewayParts) -> web.Application:
    """Builds the application with the routes of all modules."""
    application = web.Application(middlewares=[_identified, _counted])
    application[PARTS] = parts
    for module in (health, page, session_socket):
        module.add_routes(application)
    parts.earlier.add_routes(application)
    return application


@web.middleware
async def _identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the request its id: the caller's own if it may be used."""
    given = request.headers.get(REQUEST_ID, "")
    request_context.request_id.set(given if request_context.sane_id(given) else request_context.new_request_id())
    return await handler(request)


@web.middleware
async def _counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses requests over the limit, and sockets while the gateway ends. Health checks are always answered."""
    parts = request.app[PARTS]
    if request.path in _UNCOUNTED:
        return await handler(request)
    if parts.draining.is_set() and request.path == session_socket.PATH:
        raise web.HTTPServiceUnavailable(text="the gateway shuts down; connect to another one\n")
    admitted = parts.server.calls.admit()
    try:
        admitted.__enter__()
    except ResourceExhausted as error:
        raise web.HTTPServiceUnavailable(text=f"{error.message}\n", headers={"Retry-After": "1"}) from None
    try:
        return await handler(request)
    finally:
        admitted.__exit__(None, None, None)
