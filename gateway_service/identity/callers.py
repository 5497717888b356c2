"""Asks who calls the gateway: for each request, or by a ticket in the first message of a WebSocket."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from aiohttp import web

from gateway_service.guard.guard import HEALTH_PATHS
from gateway_service.identity.tickets import Tickets
from gateway_service.problems import Problem, of_code
from service_kit.callers.authority import Authority
from service_kit.callers.caller import EVERYBODY, Caller, Scope, current
from service_kit.callers.certificate_names import names_in
from service_kit.callers.credentials import API_KEY_KEY, AUTHORIZATION_KEY, CALLER_KEY, LIMITS_KEY
from service_kit.callers.revoking import RunningWork
from service_kit.errors import PermissionDenied, ServiceError, Unauthenticated
from service_kit.request_context import TRACEPARENT_KEY, traceparent

SCOPES: Mapping[str, Scope | None] = {
    "/": None,
    "/api/page.json": None,
    "/api/openapi.json": None,
    "/api/sessions/{secret}/stream.mjpeg": None,  # the secret is the credential
    "/api/avatars": Scope.READ,
    "/api/avatars/{avatar}/still.jpg": Scope.READ,
    "/api/avatars/{avatar}/stream.mjpeg": Scope.INFER,
    "/api/avatars/{avatar}/whep": Scope.INFER,
    "/api/sessions/{secret}/whep": None,  # as its other pictures
    "/api/whep/{secret}": None,  # the same
    "/api/tickets": Scope.INFER,
    "/ws": Scope.INFER,
}
"""The scope that each address needs; None: it is open to all, as the files of the page are. Others need the scope admin."""
_PAGE = "/page/"
# Addresses of WebSockets, also on the ports of the earlier servers' clients. Elsewhere the header Upgrade means nothing.
_SOCKETS = frozenset({"/ws", "/"})
# A caller who has not said yet who it is.
STRANGER = Caller("", frozenset(), avatars=())

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Callers:
    """Identifies callers. Without an authority nobody is asked, and everybody may do everything."""

    def __init__(self, authority: Authority | None, tickets: Tickets | None) -> None:
        self._authority = authority
        self.tickets = tickets
        self._running = RunningWork(authority) if authority else None

    @property
    def are_asked(self) -> bool:
        """True where callers need a credential."""
        return self._authority is not None

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Sets the caller of the request. Raises Problem: 401 or 403."""
        scope = scope_of(request)
        if self._authority is None or scope is None:
            return await handler(request)
        try:
            current.set(await self._identify(self._authority, request, scope))
        except ServiceError as error:
            raise _problem(error, request, scope) from None
        return await handler(request)

    async def of_first_message(self, request: web.Request, ticket: str = "") -> Caller:
        """Returns the caller of a socket, once its first message is there, and sets it.

        `ticket` is empty where the message holds none. It counts before a certificate, and before what is allowed without a
        credential. Raises Unauthenticated or PermissionDenied.
        """
        caller = current.get()
        if self._authority is None:
            return caller
        if ticket:
            caller = self._of_ticket(request, ticket)
        elif caller is STRANGER:
            caller = await self._authority.identify(())
        caller.check(Scope.INFER)
        current.set(caller)
        return caller

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ends its block when the caller is revoked. Raises Unauthenticated then."""
        if self._running is None:
            yield
            return
        with self._running.of(current.get()):
            yield

    def _of_ticket(self, request: web.Request, ticket: str) -> Caller:
        assert self.tickets
        if _shows_credential(request):
            raise Unauthenticated("send one credential: a key or a token in a header, or a ticket")
        return self.tickets.take(ticket)

    async def _identify(self, authority: Authority, request: web.Request, scope: Scope) -> Caller:
        if opens_socket(request) and not _shows_credential(request):
            try:  # a certificate may tell
                caller = await authority.identify((), names_in(request.get_extra_info("peercert")))
            except Unauthenticated:
                return STRANGER
            return caller if caller.may(scope) else STRANGER
        caller = await authority.identify(request.headers.items(), names_in(request.get_extra_info("peercert")))
        caller.check(scope)
        return caller


def scope_of(request: web.Request) -> Scope | None:
    """Returns the scope that a request needs; None for one that is open to all, or finds nothing."""
    resource = request.match_info.route.resource
    if resource is None or request.method == "OPTIONS" or request.path in HEALTH_PATHS or is_of_page(resource.canonical):
        return None
    return Scope.INFER if opens_socket(request) else SCOPES.get(resource.canonical, Scope.ADMIN)


def is_of_page(path: str) -> bool:
    """Tells if an address is a file of the page."""
    return path.startswith(_PAGE)


def opens_socket(request: web.Request) -> bool:
    """Tells if a request opens a WebSocket."""
    resource = request.match_info.route.resource
    is_there = resource is not None and resource.canonical in _SOCKETS
    return is_there and request.headers.get("Upgrade", "").lower() == "websocket"


def caller_metadata() -> tuple[tuple[str, str], ...]:
    """Returns what a call to a compositing service carries, so that it knows for whom the gateway calls, and in which trace."""
    caller, trace = current.get(), traceparent.get()
    named: tuple[tuple[str, str], ...] = ()
    if caller is not EVERYBODY and caller.name:
        named = ((CALLER_KEY, caller.name),)
        if caller.limits:
            named = (*named, (LIMITS_KEY, json.dumps(dict(caller.limits))))
    return (*named, *(((TRACEPARENT_KEY, trace),) if trace else ()))


def _shows_credential(request: web.Request) -> bool:
    return AUTHORIZATION_KEY in request.headers or API_KEY_KEY in request.headers


def _problem(error: ServiceError, request: web.Request, scope: Scope) -> Problem:
    """Returns the answer to a caller who may not ask, with the challenge of RFC 6750."""
    challenge = 'Bearer realm="lipsync"'
    if isinstance(error, PermissionDenied):
        challenge += f', error="insufficient_scope", scope="{scope.value}"'
    elif isinstance(error, Unauthenticated) and _shows_credential(request):
        challenge += ', error="invalid_token"'
    return of_code(error.code, error.message, headers={"WWW-Authenticate": challenge})
