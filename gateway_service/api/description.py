"""Gives the OpenAPI description of the HTTP part, with the version of the product where nobody is asked for a key."""

from __future__ import annotations

import json
from importlib import resources

from aiohttp import web

from gateway_service.parts import PARTS
from service_kit.version import product_version


def add_routes(application: web.Application) -> None:
    """Adds /api/openapi.json."""
    text = resources.files("gateway_service.api").joinpath("openapi.json").read_text(encoding="utf-8")
    content = json.loads(text)
    if not application[PARTS].callers.are_asked:
        content["info"]["version"] = product_version()
    body = json.dumps(content).encode()

    async def describe(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-cache"})

    application.router.add_get("/api/openapi.json", describe)
