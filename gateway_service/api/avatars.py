"""Lists the avatars, and gives their stills."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable

import grpc
from aiohttp import web

from gateway_service.api.kept import Kept
from gateway_service.api.stills import Stills
from gateway_service.parts import PARTS, GatewayParts
from gateway_service.problems import of_code
from lipsync_client import AvatarInfo, LipsyncError
from service_kit.callers.caller import current

LIST = web.AppKey("LIST", Kept[str, dict[str, str]])
"""Each avatar in JSON, by id."""
STILLS = web.AppKey("STILLS", Stills)
AVATAR_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LEAST_WIDTH = 16


def add_routes(application: web.Application) -> None:
    """Adds /api/avatars and the stills."""
    parts = application[PARTS]
    section = parts.settings.pictures
    application[LIST] = Kept(parts.clock, seconds=section.list_seconds, most=1)

    async def picture(avatar: str) -> bytes:
        return (await parts.compositors.client.idle(avatar, 1)).frames[0]

    application[STILLS] = Stills(picture, parts.clock, seconds=section.still_seconds, most_bytes=section.still_cache_mb << 20)
    application.on_cleanup.append(_close)
    application.router.add_get("/api/avatars", list_avatars)
    application.router.add_get("/api/avatars/{avatar}/still.jpg", still)


async def list_avatars(request: web.Request) -> web.Response:
    """Lists all avatars, those that cannot be served with the reason. While no service tells, the list is the last one."""
    kept, client = request.app[LIST], request.app[PARTS].compositors.client

    async def listed() -> dict[str, str]:
        return await asyncio.to_thread(_in_json, await client.list_avatars())  # there may be thousands

    headers = {"Cache-Control": "no-cache"}
    try:
        avatars = await kept.get("", listed)
    except LipsyncError:
        last = kept.last("")
        if last is None:
            raise
        avatars, age_s = last
        headers["Age"] = str(round(age_s))
    caller = current.get()
    found = ", ".join(avatar for avatar_id, avatar in avatars.items() if caller.may_use(avatar_id))
    return web.json_response(text=f'{{"avatars": [{found}]}}', headers=headers)


async def still(request: web.Request) -> web.Response:
    """Gives the picture of an avatar at rest, perhaps scaled down."""
    parts = request.app[PARTS]
    avatar, width = avatar_id(request), _width(request, parts)
    found = await request.app[STILLS].get(avatar, width)
    response = web.Response(body=found.jpeg, content_type="image/jpeg")
    response.etag = found.etag
    whose = "private" if parts.callers.are_asked else "public"
    response.headers["Cache-Control"] = f"{whose}, max-age={int(parts.settings.pictures.still_seconds)}"
    known = request.if_none_match or ()
    if any(tag.value in {found.etag, "*"} for tag in known):
        response.set_status(304)
        response.body = None
    return response


def avatar_id(request: web.Request) -> str:
    """Returns the avatar of the address. Raises Problem for what no avatar can be called."""
    given = request.match_info["avatar"]
    if not AVATAR_ID.fullmatch(given):
        text = "an avatar's id has 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit"
        raise of_code(grpc.StatusCode.INVALID_ARGUMENT, text)
    if not current.get().may_use(given):
        raise of_code(grpc.StatusCode.PERMISSION_DENIED, "this caller may not use this avatar")
    return given


def _width(request: web.Request, parts: GatewayParts) -> int | None:
    given = request.query.get("width")
    if given is None:
        return None
    most = parts.settings.pictures.max_still_width
    if not re.fullmatch(r"[0-9]{1,5}", given, re.ASCII) or not LEAST_WIDTH <= int(given) <= most:
        raise of_code(grpc.StatusCode.INVALID_ARGUMENT, f"width: a whole number from {LEAST_WIDTH} to {most}")
    return int(given)


def _in_json(avatars: Iterable[AvatarInfo]) -> dict[str, str]:
    return {avatar.id: _described(avatar) for avatar in avatars}


def _described(avatar: AvatarInfo) -> str:
    address = f"/api/avatars/{avatar.id}"
    described = {
        "id": avatar.id,
        "width": avatar.width,
        "height": avatar.height,
        "frames": avatar.frame_count,
        "fps": avatar.fps,
        "loaded": avatar.loaded,
        "error": avatar.error,
        "still": f"{address}/still.jpg",
        "stream": f"{address}/stream.mjpeg",
    }
    return json.dumps(described)


async def _close(application: web.Application) -> None:
    await application[STILLS].close()
    await application[LIST].close()
