"""Serves over HTTP the requests of agents to the worker."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import grpc
from aiohttp import web
from aiohttp.typedefs import Handler
from livekit import rtc

from lipsync_adapters.livekit.room import Invitation
from lipsync_adapters.livekit.rooms import Held, Rooms
from lipsync_adapters.livekit.settings import RoomsSection
from lipsync_client import LipsyncError
from service_kit.callers import caller
from service_kit.callers.authority import Authority
from service_kit.callers.caller import Scope
from service_kit.callers.certificate_names import names_in
from service_kit.errors import PermissionDenied, ResourceExhausted, Unauthenticated

_BODY_BYTES = 64 << 10
_RETRY_S = 5
_REQUEST_ID = "Idempotency-Key"
# The names that agents of LiveKit's example and of others use.
_URLS, _TOKENS, _AVATARS = ("url", "livekit_url"), ("token", "livekit_token"), ("avatar", "avatar_id")
_STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
}

log = logging.getLogger(__name__)


class WorkerApplication:
    """Launches avatars. A body must come within `receive_s`. `authority`: None where nobody is asked who it is."""

    def __init__(
        self,
        rooms: Rooms,
        section: RoomsSection,
        *,
        receive_s: float,
        authority: Authority | None = None,
        draining: asyncio.Event | None = None,
    ) -> None:
        self._rooms = rooms
        self._section = section
        self._receive_s = receive_s
        self._authority = authority
        self._draining = draining or asyncio.Event()

    def build(self) -> web.Application:
        """Builds the application."""
        application = web.Application(client_max_size=_BODY_BYTES, middlewares=[self._answers_problems, self._identifies])
        application.on_response_prepare.append(_name_no_program)
        application.router.add_post("/launch", self._launch)
        application.router.add_get("/rooms", self._list)
        application.router.add_delete("/rooms/{id}", self._end)
        return application

    async def _launch(self, request: web.Request) -> web.Response:
        if self._draining.is_set():
            return problem(503, "the worker shuts down; ask another one", retry_s=_RETRY_S)
        invitation = self._invitation(await self._content(request))
        caller.check_avatar(invitation.avatar)
        held, is_new = await self._rooms.launch(invitation, request=request.headers.get(_REQUEST_ID, ""))
        return web.json_response(_told(held), status=201 if is_new else 200, headers={"Location": f"/rooms/{held.id}"})

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"rooms": [_told(held) for held in self._rooms.held]})

    async def _end(self, request: web.Request) -> web.Response:
        await self._rooms.end(request.match_info["id"])
        return web.Response(status=204)

    async def _content(self, request: web.Request) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(self._receive_s):
                content = await request.json()
        except TimeoutError:
            raise web.HTTPRequestTimeout(reason=f"the body did not come whole within {self._receive_s:g} s") from None
        except ValueError:
            raise ValueError("the body is no JSON") from None
        if not isinstance(content, dict):
            raise ValueError("the body is no JSON object")
        return content

    def _invitation(self, content: Mapping[str, Any]) -> Invitation:
        """Raises ValueError with all that is wrong."""
        url, token, avatar = (_text(content, names) for names in (_URLS, _TOKENS, _AVATARS))
        wrong = [f"{name}: missing" for name, value in (("url", url), ("token", token)) if not value]
        if url and not url.startswith(("ws://", "wss://", "http://", "https://")):
            wrong.append("url: not of a LiveKit server, ws://... or wss://...")
        if (
            url
            and self._section.allowed_urls
            and url.rstrip("/") not in {each.rstrip("/") for each in self._section.allowed_urls}
        ):
            wrong.append("url: not a LiveKit server that this worker may join")
        if wrong:
            raise ValueError("; ".join(wrong))
        return Invitation(url, token, avatar or self._section.avatar)

    @web.middleware
    async def _identifies(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._authority:
            names = names_in(request.get_extra_info("peercert"))
            known = await self._authority.identify(request.headers.items(), names)
            known.check(Scope.READ if request.method == "GET" else Scope.INFER)
            caller.current.set(known)
        return await handler(request)

    @web.middleware
    async def _answers_problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception as error:
            return _answer(error)


async def _name_no_program(_: web.Request, response: web.StreamResponse) -> None:
    """Keeps the library from telling everybody its version and Python's."""
    response.headers["Server"] = "lipsync"


def _answer(error: Exception) -> web.Response:
    """Says what went wrong. Texts of errors that nobody expected are for the log alone."""
    retry_s: int | None = None
    headers: dict[str, str] = {}
    match error:
        case web.HTTPException():
            status, detail = error.status, error.reason
        case ValueError():
            status, detail = 400, str(error)
        case TimeoutError():
            status, detail = 504, "the avatar has not joined in time"
        case rtc.ConnectError():
            status, detail = 502, f"the LiveKit server does not let the avatar join: {error}"
        case LipsyncError():
            status, detail = _STATUS.get(error.code, 502), f"the lip-sync service: {error}"
            retry_s = _retry_s(error.retry_after_ms) if status == 503 else None
        case Unauthenticated():
            status, detail, headers = 401, error.message, {"WWW-Authenticate": 'Bearer realm="lipsync"'}
        case PermissionDenied():
            status, detail = 403, error.message
        case ResourceExhausted():
            status, detail, retry_s = 503, error.message, _RETRY_S
        case _:
            log.error("a request failed", exc_info=error)
            status, detail = 500, "internal error; the operators find it in the log"
    return problem(status, detail, retry_s=retry_s, headers=headers)


def problem(status: int, detail: str, *, retry_s: int | None = None, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answers with problem details as in RFC 9457."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    more = {"Retry-After": str(retry_s)} if retry_s is not None else {}
    return web.Response(
        status=status, text=json.dumps(content), content_type="application/problem+json", headers={**more, **(headers or {})}
    )


def _retry_s(milliseconds: int | None) -> int:
    return _RETRY_S if milliseconds is None else max(1, math.ceil(milliseconds / 1000))


def _text(content: Mapping[str, Any], names: tuple[str, ...]) -> str:
    found = next((content[name] for name in names if name in content), "")
    if not isinstance(found, str):
        raise ValueError(f"{names[0]}: not a text")
    return found.strip()


def _told(held: Held) -> dict[str, str]:
    return {"id": held.id, "room_name": held.place.room, "identity": held.place.identity, "avatar": held.room.avatar}
