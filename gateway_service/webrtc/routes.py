"""The addresses of WHEP. What serves them is imported with the first viewer: few gateways need it, and it takes a second."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import grpc
from aiohttp import web

from gateway_service.parts import PARTS, GatewayParts
from gateway_service.problems import of_code
from gateway_service.webrtc.addresses import FRAGMENT, OF_AVATAR, OF_SESSION, SDP, VIEWER
from gateway_service.webrtc.settings import WebrtcSection
from service_kit.listening import StartError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_available(section: WebrtcSection) -> bool:
    """Tells if this gateway serves WebRTC. Raises StartError where it is to, and cannot."""
    is_installed = importlib.util.find_spec("aiortc") is not None
    if section.enabled is True and not is_installed:
        raise StartError("webrtc.enabled: aiortc is not installed; install lipsync-serving[webrtc], or set it to auto")
    return bool(section.enabled) and is_installed


def _check_secret(section: WebrtcSection) -> None:
    """Raises StartError for a secret that will be needed, and cannot be read."""
    path = section.turn_secret_file
    try:
        if path and not path.read_bytes().strip():
            raise StartError(f"webrtc.turn_secret_file: {path} is empty")
    except OSError as error:
        raise StartError(f"webrtc.turn_secret_file: {path} cannot be read: {error.strerror}") from None


def add_routes(application: web.Application) -> None:
    """Adds the addresses where offers are posted, and those of viewers."""
    endpoint = _Lazy(application[PARTS])
    router = application.router
    for path, name in ((OF_AVATAR, "at_rest"), (OF_SESSION, "of_session")):
        router.add_post(path, endpoint.handler(name))
        router.add_get(path, endpoint.handler("describe"))
        router.add_route("OPTIONS", path, _options("GET, HEAD, OPTIONS, POST", ("Accept-Post", SDP)))
    router.add_patch(VIEWER, endpoint.handler("add_candidates"))
    router.add_delete(VIEWER, endpoint.handler("end"))
    router.add_route("OPTIONS", VIEWER, _options("DELETE, OPTIONS, PATCH", ("Accept-Patch", FRAGMENT)))
    application.on_cleanup.append(endpoint.close)


class _Endpoint(Protocol):
    """Is `gateway_service.webrtc.endpoint.Endpoint`."""

    async def close(self) -> None: ...


class _Lazy:
    """Makes the endpoint when it is needed."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        self._is_available = is_available(parts.settings.webrtc)
        _check_secret(parts.settings.webrtc)
        self._making = asyncio.Lock()
        self._made: _Endpoint | None = None

    def handler(self, name: str) -> Handler:
        """Returns a handler that calls the endpoint's method of this name."""

        async def handle(request: web.Request) -> web.StreamResponse:
            response: web.StreamResponse = await getattr(await self._get(), name)(request)
            return response

        return handle

    async def close(self, _application: web.Application) -> None:
        """Ends all viewers."""
        if self._made:
            await self._made.close()

    async def _get(self) -> _Endpoint:
        if not self._is_available:
            detail = "this gateway has no WebRTC: it needs the extra lipsync-serving[webrtc], and webrtc.enabled"
            raise of_code(grpc.StatusCode.UNIMPLEMENTED, detail)
        async with self._making:
            if self._made is None:
                module = await asyncio.to_thread(importlib.import_module, "gateway_service.webrtc.endpoint")
                self._made = module.Endpoint(self._parts)
        return self._made


def _options(allow: str, accept: tuple[str, str]) -> Handler:
    return partial(_answer_options, {"Allow": allow, accept[0]: accept[1]})


async def _answer_options(headers: dict[str, str], _request: web.Request) -> web.StreamResponse:
    return web.Response(status=204, headers=headers)
