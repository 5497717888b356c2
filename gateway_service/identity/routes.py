"""Gives tickets to callers with an API key."""

from __future__ import annotations

import grpc
from aiohttp import web

from gateway_service.parts import PARTS
from gateway_service.problems import of_code
from service_kit.callers.caller import current


def add_routes(application: web.Application) -> None:
    """Adds /api/tickets."""
    application.router.add_post("/api/tickets", make)


async def make(request: web.Request) -> web.Response:
    """Makes a ticket for the caller."""
    tickets = request.app[PARTS].callers.tickets
    if tickets is None:
        raise of_code(grpc.StatusCode.NOT_FOUND, "nobody needs a ticket here")
    content = {"ticket": tickets.make(current.get()), "expires_in_s": tickets.seconds}
    return web.json_response(content, headers={"Cache-Control": "no-store"})
