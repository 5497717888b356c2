"""Answers WHEP (draft-ietf-wish-whep): a player posts an offer, gets an answer, and deletes its address in the end."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address

import grpc
from aiohttp import web

from gateway_service.api.avatars import avatar_id
from gateway_service.api.streams import SHOWS
from gateway_service.guard.bodies import read_body
from gateway_service.parts import GatewayParts
from gateway_service.problems import Problem, of_code, of_upstream
from gateway_service.webrtc.addresses import FRAGMENT, SDP, VIEWER
from gateway_service.webrtc.broadcast import Source
from gateway_service.webrtc.ice import IceServers
from gateway_service.webrtc.offers import read_candidates, read_offer
from gateway_service.webrtc.viewers import Viewer, Viewers, Wish
from lipsync_client import LipsyncError

_RETRY_S = 5.0
_REST_RATE_HZ = 16_000  # of its silence


class Endpoint:
    """The handlers. Close it."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        section = parts.settings.webrtc
        self._servers = IceServers(section)
        self._viewers = Viewers(section, self._servers, parts.clock)

    async def close(self) -> None:
        """Ends all viewers."""
        await self._viewers.close()

    async def describe(self, _request: web.Request) -> web.Response:
        """Says that offers are taken here, and which servers may help to connect."""
        return self._linked(web.Response(content_type=SDP))

    async def at_rest(self, request: web.Request) -> web.Response:
        """Shows an avatar while nobody speaks, until the viewer leaves."""
        avatar = avatar_id(request)
        watched = partial(request.app[SHOWS].watched, avatar)
        return await self._show(request, Source(("avatar", avatar), _REST_RATE_HZ, watched, always_shows=True), at_rest=True)

    async def of_session(self, request: web.Request) -> web.Response:
        """Shows a session that runs at this gateway, until it ends."""
        session = self._parts.sessions.find(request.match_info["secret"])
        if session is None:
            raise of_code(grpc.StatusCode.NOT_FOUND, "no session that runs here has this secret")
        if not session.is_paced:
            detail = "the session's frames come as fast as they can be made, not at the pace at which they are to be seen"
            raise Problem(409, detail, code=grpc.StatusCode.FAILED_PRECONDITION)
        source = Source(("session", session.secret), session.rate, session.watched, always_shows=False)
        return await self._show(request, source, at_rest=False)

    async def add_candidates(self, request: web.Request) -> web.Response:
        """Takes further addresses of a viewer."""
        viewer = self._viewer(request)
        text = await self._body(request, FRAGMENT)
        if request.if_match is None:
            raise Problem(428, "send the ETag of the answer as If-Match", code=grpc.StatusCode.FAILED_PRECONDITION)
        if not any(tag.value in {viewer.etag, "*"} for tag in request.if_match):
            raise Problem(412, "If-Match is not the ETag of this connection", code=grpc.StatusCode.ABORTED)
        await viewer.add_candidates(read_candidates(text, viewer.offer))
        return web.Response(status=204)

    async def end(self, request: web.Request) -> web.Response:
        """Ends a viewer."""
        await self._viewer(request).end()
        return web.Response(text="ended\n")

    async def _show(self, request: web.Request, source: Source, *, at_rest: bool) -> web.Response:
        parts = self._parts
        if parts.draining.is_set():
            raise Problem(503, "the gateway shuts down; ask another one", code=grpc.StatusCode.UNAVAILABLE, retry_s=_RETRY_S)
        wish = Wish(
            source=source,
            offer=read_offer(await self._body(request, SDP)),
            is_local=_is_local(request),
            secret=parts.holders.new_secret(request),
            places=partial(self._places, request, at_rest=at_rest),
            ending=parts.draining if at_rest else None,
        )
        try:
            viewer = await self._viewers.add(wish)
        except LipsyncError as error:
            raise _of_upstream(error) from None
        response = web.Response(status=201, text=viewer.answer.result(), content_type=SDP)
        response.headers["Location"] = VIEWER.format(secret=viewer.secret)
        response.etag = viewer.etag
        return self._linked(response)

    def _linked(self, response: web.Response) -> web.Response:
        response.headers["Cache-Control"] = "no-store"
        for link in self._servers.links():
            response.headers.add("Link", link)
        return response

    def _places(self, request: web.Request, *, at_rest: bool) -> ExitStack:
        """Takes the places of a viewer. One of an avatar ends when its caller is revoked, others with their session."""
        with ExitStack() as stack:
            stack.enter_context(self._parts.guard.socket(request))
            stack.enter_context(self._parts.server.calls.admit())
            if at_rest:
                stack.enter_context(self._parts.callers.running())
            return stack.pop_all()

    async def _body(self, request: web.Request, content_type: str) -> str:
        """Reads a body of this type. Raises Problem."""
        if request.content_type != content_type:
            raise Problem(415, f"send Content-Type: {content_type}", code=grpc.StatusCode.INVALID_ARGUMENT)
        body = await read_body(request, seconds=self._parts.settings.guard.keepalive_seconds)
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise of_code(grpc.StatusCode.INVALID_ARGUMENT, "the body is not UTF-8") from None

    def _viewer(self, request: web.Request) -> Viewer:
        viewer = self._viewers.find(request.match_info["secret"])
        if viewer is None or not viewer.answer.done():
            raise of_code(grpc.StatusCode.NOT_FOUND, "nobody who watches here has this secret")
        return viewer


def _of_upstream(error: LipsyncError) -> Problem:
    """Returns the problem as WHEP tells it: 503 where there is no room, with a time to come back."""
    problem = of_upstream(error)
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        problem.status = 503
    if problem.status == 503 and problem.retry_s is None:
        problem.retry_s = _RETRY_S
    return problem


def _is_local(request: web.Request) -> bool:
    """Tells if the viewer is on this machine, or behind a proxy on it."""
    try:
        return ip_address(request.remote or "").is_loopback
    except ValueError:
        return False
