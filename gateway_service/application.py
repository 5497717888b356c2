"""The web application: what is served at the gateway's port."""

from __future__ import annotations

from aiohttp import web

from gateway_service.api import health
from gateway_service.page import routes as page
from gateway_service.parts import PARTS, GatewayParts
from gateway_service.websocket import session_socket


def build_application(parts: GatewayParts) -> web.Application:
    """Builds the application with the routes of all modules."""
    application = web.Application()
    application[PARTS] = parts
    for module in (health, page, session_socket):
        module.add_routes(application)
    parts.earlier.add_routes(application)
    return application
