"""Passes requests on to the gateway that holds what they are about.

A session and a viewer over WebRTC live at one gateway, and balancers send requests to any. So where gateways are told of each
other, a secret names its gateway, by a digest of the address at which the balancer asked it. Requests go to no address but those
of `server.gateways`, whatever a secret says.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
from hashlib import sha256
from ipaddress import IPv6Address, ip_address

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway_service.guard.bodies import read_body
from gateway_service.settings import GatewaySettings

PASSED_ON = "X-Lipsync-Passed-On"
"""Marks requests of another gateway, which are passed on no further."""
_CONNECT_S = 2.0
_DIGEST_CHARS = 12
# Headers of one connection, or those that the answer gets here.
_NOT_PASSED_ON = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "x-forwarded-for"})
_ANSWERED = ("Accept-Patch", "Accept-Post", "Allow", "Cache-Control", "Content-Type", "ETag", "Link", "Location", "Retry-After")

log = logging.getLogger(__name__)


class Holders:
    """The gateways behind one balancer. Close it."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._names = [name.rsplit(":", 1) for name in settings.server.gateways]
        self._http: aiohttp.ClientSession | None = None

    def new_secret(self, request: web.Request) -> str:
        """Makes the secret of what this gateway is to hold. Nobody can guess it."""
        secret = secrets.token_urlsafe(24)
        return f"{secret}.{_digest(*_own(request))}" if self._names else secret

    async def close(self) -> None:
        """Ends the connections to other gateways."""
        if self._http:
            await self._http.close()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers here, or lets the gateway answer that a secret in the address names."""
        named = request.match_info.get("secret", "").rpartition(".")[2]
        if not self._names or PASSED_ON in request.headers or len(named) != _DIGEST_CHARS or named == _digest(*_own(request)):
            return await handler(request)
        for host, name, port in await self._others():
            if _digest(host, port) == named:
                try:
                    answer = await self._ask(request, host, name, port)
                except (aiohttp.ClientError, TimeoutError) as error:
                    log.warning("another gateway cannot be reached: %s", error)
                    break
                return await _copy(answer, request)
        return await handler(request)

    async def _others(self) -> list[tuple[str, str, int]]:
        """Returns address, name and port of all gateways."""
        loop = asyncio.get_running_loop()
        found: list[tuple[str, str, int]] = []
        for name, port in self._names:
            try:
                addresses = await loop.getaddrinfo(name.strip("[]"), int(port), type=socket.SOCK_STREAM)
            except OSError as error:
                log.warning("server.gateways: %s cannot be looked up: %s", name, error)
                continue
            found += [(_plain(str(address[0])), name, int(port)) for *_, address in addresses]
        return found

    async def _ask(self, request: web.Request, host: str, name: str, port: int) -> aiohttp.ClientResponse:
        headers = [(key, value) for key, value in request.headers.items() if key.lower() not in _NOT_PASSED_ON]
        peer = request.transport.get_extra_info("peername") if request.transport else None
        hops = [*request.headers.getall("X-Forwarded-For", []), *([_plain(str(peer[0]))] if peer else [])]
        headers += [("X-Forwarded-For", ", ".join(hops)), (PASSED_ON, "1")]
        is_tls = self._settings.tls.is_on
        place = f"[{host}]" if ":" in host else host
        return await self._client().request(
            request.method,
            f"{'https' if is_tls else 'http'}://{place}:{port}{request.raw_path}",
            data=await read_body(request, seconds=self._settings.guard.keepalive_seconds),
            headers=headers,
            allow_redirects=False,
            ssl=self._tls() if is_tls else False,
            server_hostname=name.strip("[]") if is_tls else None,
        )

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
            self._http = aiohttp.ClientSession(timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        return self._http

    def _tls(self) -> ssl.SSLContext:
        """Gateways show each other the certificates that they show callers; read anew, as they may have been renewed."""
        section = self._settings.tls
        context = ssl.create_default_context(cafile=section.client_ca_file)
        assert section.certificate_file
        context.load_cert_chain(section.certificate_file, section.key_file)
        return context


async def _copy(answer: aiohttp.ClientResponse, request: web.Request) -> web.StreamResponse:
    """Sends an answer of another gateway as it comes."""
    async with answer:
        response = web.StreamResponse(status=answer.status)
        for key in _ANSWERED:
            for value in answer.headers.getall(key, []):
                response.headers.add(key, value)
        await response.prepare(request)
        async for part in answer.content.iter_any():
            await response.write(part)
        return response


def _own(request: web.Request) -> tuple[str, int]:
    """Returns the address of this gateway at which a request came."""
    name = request.transport.get_extra_info("sockname") if request.transport else None
    return (_plain(str(name[0])), int(name[1])) if name else ("", 0)


def _plain(host: str) -> str:
    """Returns an address as all gateways write it."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _digest(host: str, port: int) -> str:
    return sha256(f"{host} {port}".encode()).hexdigest()[:_DIGEST_CHARS]
