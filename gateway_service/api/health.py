"""Answers the health checks of orchestrators and load balancers at the gateway's own port."""

from __future__ import annotations

from aiohttp import web

from gateway_service.parts import PARTS


def add_routes(application: web.Application) -> None:
    """Adds /healthz and /readyz, and the same by the names that all services have."""
    for path in ("/healthz", "/health/live"):
        application.router.add_get(path, alive)
    for path in ("/readyz", "/health/ready"):
        application.router.add_get(path, ready)


async def alive(request: web.Request) -> web.Response:
    """Says that the gateway runs, or why only a restart can help it."""
    return _answer(request.app[PARTS].liveness.reason)


async def ready(request: web.Request) -> web.Response:
    """Says if a session could begin here, and else why not."""
    return _answer(request.app[PARTS].readiness.reason)


def _answer(reason: str | None) -> web.Response:
    status = 503 if reason else 200
    return web.Response(status=status, text=f"{reason or 'ok'}\n", headers={"Cache-Control": "no-store"})
