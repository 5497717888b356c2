"""Gives moving pictures: avatars at rest, and running sessions to those who know their secret."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from aiohttp import web

from gateway_service.api.avatars import avatar_id
from gateway_service.api.motion_jpeg import CONTENT_TYPE, send_frames
from gateway_service.api.showing import RestShows
from gateway_service.parts import PARTS
from gateway_service.problems import of_code
from gateway_service.watching import Watcher
from lipsync_client import AsyncSession, Frame

SHOWS = web.AppKey("SHOWS", RestShows)


def add_routes(application: web.Application) -> None:
    """Adds the streams."""
    parts = application[PARTS]

    @asynccontextmanager
    async def session(avatar: str) -> AsyncIterator[AsyncSession]:
        async with parts.compositors.for_session() as client, client.session(avatar) as opened:
            yield opened

    application[SHOWS] = RestShows(session, most=parts.settings.pictures.max_avatars_at_rest)
    application.on_cleanup.append(_close)
    application.router.add_get("/api/avatars/{avatar}/stream.mjpeg", at_rest)
    application.router.add_get("/api/sessions/{secret}/stream.mjpeg", of_session)


async def at_rest(request: web.Request) -> web.StreamResponse:
    """Shows an avatar while nobody speaks, until the viewer leaves."""
    avatar = avatar_id(request)
    if request.method == "HEAD":
        return _head()
    with request.app[PARTS].callers.running(), request.app[SHOWS].watched(avatar) as watcher:
        first = await watcher.next()  # an error is told while it can be
        return await _send(request, _pictures(watcher, first))


async def of_session(request: web.Request) -> web.StreamResponse:
    """Shows a session that runs at this gateway, until it ends."""
    session = request.app[PARTS].sessions.find(request.match_info["secret"])
    if session is None:
        raise of_code(grpc.StatusCode.NOT_FOUND, "no session that runs here has this secret")
    if request.method == "HEAD":
        return _head()
    with session.watched() as watcher:
        return await _send(request, _pictures(watcher))


async def _send(request: web.Request, frames: AsyncIterator[bytes]) -> web.StreamResponse:
    parts = request.app[PARTS]
    with parts.guard.socket(request):
        stall_s = parts.settings.pictures.stalled_viewer_seconds
        return await send_frames(request, frames, ending=parts.draining, stall_s=stall_s)


async def _pictures(watcher: Watcher, first: Frame | None = None) -> AsyncIterator[bytes]:
    """Yields JPEG files to the end, the newest one when one is asked for."""
    frame = first or await watcher.next()
    while frame is not None:
        yield frame.picture
        frame = await watcher.next()


def _head() -> web.Response:
    return web.Response(headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})


async def _close(application: web.Application) -> None:
    await application[SHOWS].close()
