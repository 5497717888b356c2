"""Applies the guard to requests: who may ask, how often, and with which headers the answer leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager

import grpc
from aiohttp import web
from prometheus_client import Counter

from gateway_service.guard.callers import caller_address
from gateway_service.guard.headers import SECURITY_HEADERS
from gateway_service.guard.origins import is_allowed, is_known_host, is_listed
from gateway_service.guard.places import NoPlace, Places
from gateway_service.guard.settings import GuardSection
from gateway_service.problems import Problem, of_http, problem_of
from service_kit.callers.certificate_names import names_in
from service_kit.clock import Clock
from service_kit.limits.rates import Rates

HEALTH_PATHS = frozenset({"/healthz", "/readyz", "/health", "/health/live", "/health/ready"})
# Addresses of this service are far shorter.
MAX_PATH_CHARS = 2048
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_RETRY_S = 5.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """The state of the limits, and the hooks of an aiohttp application. `refused` counts by `reason`.

    With `client_names`, a caller's certificate must have one of them.
    """

    def __init__(self, settings: GuardSection, refused: Counter, clock: Clock, *, client_names: Collection[str] = ()) -> None:
        self._client_names = frozenset(client_names)
        self.settings = settings
        self._sockets = Places(settings.max_sockets_per_address)
        self._rates = Rates(settings.requests_per_second, settings.request_burst)
        self._clock = clock
        self._refused = refused

    def install(self, app: web.Application) -> None:
        """Adds the hooks. Its middlewares must be the first ones."""
        app.middlewares.append(self._answer_problems)
        app.middlewares.append(self._check)
        app.on_response_prepare.append(self._add_headers)

    def caller(self, request: web.Request) -> str:
        """Returns the address that limits count by."""
        peer = request.transport.get_extra_info("peername") if request.transport else None
        forwarded = request.headers.getall("X-Forwarded-For", [])
        return caller_address(peer[0] if peer else None, forwarded, self.settings.trusted_proxies)

    @contextmanager
    def socket(self, request: web.Request) -> Iterator[None]:
        """Counts an answer without an end as long as the block lasts. Raises Problem when there are too many."""
        try:
            with self._sockets.held(self.caller(request)):
                yield
        except NoPlace:
            text = "this address has as many sockets as one may have"
            raise self._refusal("sockets", 429, text, retry_s=_RETRY_S) from None

    @web.middleware
    async def _answer_problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turns every error into problem details. Once an answer has begun it can only be cut off."""
        try:
            return await handler(request)
        except ConnectionError:
            raise
        except web.HTTPException as error:
            if error.status < 400 or request.writer.output_size:
                raise
            if error.status == 405 and request.method == "OPTIONS":
                return web.Response(status=204, headers={"Allow": error.headers["Allow"]})
            return of_http(error).response()
        except Exception as error:
            problem = problem_of(error)
            if request.writer.output_size:
                raise ConnectionError("the answer had begun") from error
            return problem.response()

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in HEALTH_PATHS:
            return await handler(request)
        self._check_rate(request)
        self._check_client(request)
        self._check_address(request)
        opens_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        if opens_socket or request.method not in _SAFE:
            self._check_origin(request)
        if not opens_socket:
            return await handler(request)
        with self.socket(request):
            return await handler(request)

    def _check_rate(self, request: web.Request) -> None:
        wait_s = self._rates.take(self.caller(request), self._clock.now())
        if wait_s:
            raise self._refusal("rate", 429, "too many requests from this address", retry_s=wait_s)

    def _check_address(self, request: web.Request) -> None:
        if len(request.raw_path) > MAX_PATH_CHARS:
            raise self._refusal("path", 414, f"the address has more than {MAX_PATH_CHARS} characters")
        if not is_known_host(request.headers.get("Host"), self.settings.allowed_hosts):
            raise self._refusal("host", 421, "the gateway does not answer to this host name")

    def _check_client(self, request: web.Request) -> None:
        if self._client_names and self._client_names.isdisjoint(names_in(request.get_extra_info("peercert"))):
            raise self._refusal("client", 403, "the certificate of this client has no name that may call this service")

    def _check_origin(self, request: web.Request) -> None:
        origin, host = request.headers.get("Origin"), request.headers.get("Host")
        if not is_allowed(origin, host, self.settings.allowed_origins):
            raise self._refusal("origin", 403, "pages of this origin may not use the gateway")

    def _refusal(self, reason: str, status: int, detail: str, *, retry_s: float | None = None) -> Problem:
        self._refused.labels(reason).inc()
        return Problem(status, detail, code=_CODES[status], retry_s=retry_s)

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.update(SECURITY_HEADERS)
        allowed = self.settings.allowed_origins
        if allowed:
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
            headers.add("Vary", "Origin")
            origin = request.headers.get("Origin")
            if is_listed(origin, allowed):
                headers["Access-Control-Allow-Origin"] = str(origin)
                headers["Access-Control-Expose-Headers"] = "ETag, Link, Location, Retry-After"
                if request.method == "OPTIONS":
                    headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, If-Match, X-Api-Key"
                    headers["Access-Control-Allow-Methods"] = "DELETE, GET, HEAD, PATCH, POST"


_CODES = {
    403: grpc.StatusCode.PERMISSION_DENIED,
    414: grpc.StatusCode.INVALID_ARGUMENT,
    421: grpc.StatusCode.PERMISSION_DENIED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
