"""Answers the health checks of orchestrators and load balancers at the gateway's own port."""

from __future__ import annotations

from aiohttp import web

from gateway_service.parts import PARTS

PATHS = ("/healthz", "/readyz")


def add_routes(application: web.Application) -> None:
    """Adds /healthz and /readyz."""
    for path, handler in zip(PATHS, (healthz, readyz), strict=True):
        application.router.add_get(path, handler)


async def healthz(_request: web.Request) -> web.Response:
    """Says that the gateway runs."""
    return _answer(200, "ok")


async def readyz(request: web.Request) -> web.Response:
    """Says if a session could begin here, and else why not."""
    reason = request.app[PARTS].readiness.reason
    return _answer(503, reason) if reason else _answer(200, "ok")


def _answer(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers={"Cache-Control": "no-store"})
