"""Tells a page what this gateway can do."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from typing import Any

from aiohttp import web

from gateway_service.api.kept import Kept
from gateway_service.parts import PARTS, GatewayParts
from gateway_service.webrtc.routes import is_available
from service_kit.version import product_version

Voices = list[dict[str, str]]
VOICES = web.AppKey("VOICES", Kept[str, Voices])
# The program's voices change when it is installed anew.
_KEPT_S = 3600.0
_TIMEOUT_S = 10.0


def add_routes(application: web.Application) -> None:
    """Adds /api/page.json."""
    application[VOICES] = Kept(application[PARTS].clock, seconds=_KEPT_S, most=1)
    application.on_cleanup.append(_close)
    application.router.add_get("/api/page.json", about)


async def about(request: web.Request) -> web.Response:
    """Tells version, speech and limits."""
    parts = request.app[PARTS]
    program = parts.speech.program
    voices = await request.app[VOICES].get(program, lambda: list_voices(program)) if program else []
    return web.json_response(_content(parts, voices), headers={"Cache-Control": "no-cache"})


async def list_voices(program: str) -> Voices:
    """Asks espeak-ng for its voices: `id` is the language as `speak` takes it, `name` its name. None when it does not tell."""
    process = await asyncio.create_subprocess_exec(program, "--voices", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        return []
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    rows = [line.split() for line in output.decode(errors="replace").splitlines()[1:]]
    return [{"id": row[1], "name": row[3].replace("_", " ")} for row in rows if len(row) > 3]


def _content(parts: GatewayParts, voices: Voices) -> dict[str, Any]:
    settings = parts.settings
    speech = settings.speech
    return {
        "version": "" if parts.callers.are_asked else product_version(),
        "asks_for_key": parts.callers.are_asked,
        "speech": {
            "available": parts.speech.program is not None,
            "voice": speech.voice,
            "voices": voices,
            "max_characters": speech.max_characters,
        },
        "webrtc": {"available": is_available(settings.webrtc)},
        "limits": {
            "max_message_kb": settings.sockets.max_message_kb,
            "max_sockets_per_address": settings.guard.max_sockets_per_address,
            "max_still_width": settings.pictures.max_still_width,
        },
    }


async def _close(application: web.Application) -> None:
    await application[VOICES].close()
