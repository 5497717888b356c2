"""The gateway with TLS on its ports: browsers, callers with certificates, and those who only connect."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gateway_service.service import gateway_service
from gateway_service.settings import GatewaySettings
from service_kit.life import RunningService
from service_kit.settings import load_settings

from .authority import Authority

NOBODY = "compositing_server.url=127.0.0.1:1"


@asynccontextmanager
async def gateway(authority: Authority, *overrides: str) -> AsyncIterator[RunningService[Any]]:
    pair = authority.pair("gateway")
    ports = "server.port=127.0.0.1:0", "metrics.port=127.0.0.1:0", "server.drain_seconds=0", "earlier.ports=[127.0.0.1:0]"
    files = f"tls.certificate_file={pair.certificate}", f"tls.key_file={pair.key}"
    settings = load_settings(GatewaySettings, config=None, overrides=[*ports, *files, NOBODY, *overrides], environ={})
    async with RunningService(gateway_service(settings)) as running:
        yield running


def trusting(authority: Authority, *, certificate: str = "") -> ssl.SSLContext:
    """The settings of a client that trusts the authority, and may have a certificate of it."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if certificate:
        pair = authority.pair(certificate)
        context.load_cert_chain(pair.certificate, pair.key)
    return context


async def test_browsers_and_earlier_clients_over_tls(authority: Authority) -> None:
    async with gateway(authority) as running, aiohttp.ClientSession() as http:
        for address in running.face.addresses.values():
            async with http.ws_connect(f"wss://localhost:{address.port}/ws", ssl=trusting(authority)) as socket:
                await socket.send_str('{"type": "test_binary"}')
                assert (await socket.receive_json())["type"] == "protocol_ack"
        async with http.get(f"https://localhost:{running.address.port}/healthz", ssl=trusting(authority)) as answer:
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.get(f"https://localhost:{running.address.port}/healthz")
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"http://localhost:{running.address.port}/healthz")


@pytest.mark.parametrize(
    ("certificate", "names", "wanted"),
    [("", "", "no handshake"), ("client", "", "served"), ("client", "[client]", "served"), ("client", "[somebody]", "403")],
)
async def test_only_named_clients_are_served(authority: Authority, certificate: str, names: str, wanted: str) -> None:
    keys = [f"tls.client_ca_file={authority.certificate}", *([f"tls.allowed_client_names={names}"] if names else [])]
    context = trusting(authority, certificate=certificate)
    async with gateway(authority, *keys) as running, aiohttp.ClientSession() as http:
        for address in running.face.addresses.values():
            assert await outcome(http, f"wss://localhost:{address.port}/ws", context) == wanted
        if certificate:
            async with http.get(f"https://localhost:{running.address.port}/healthz", ssl=context) as answer:
                assert answer.status == 200


async def outcome(http: aiohttp.ClientSession, url: str, context: ssl.SSLContext) -> str:
    """Tells the end of a call by a client of the earlier servers."""
    try:
        async with http.ws_connect(url, ssl=context) as socket:
            await socket.send_str('{"type": "test_binary"}')
            return "served" if (await socket.receive()).type is aiohttp.WSMsgType.TEXT else "closed"
    except aiohttp.WSServerHandshakeError as error:
        return str(error.status)
    except (aiohttp.ClientError, ConnectionError):
        return "no handshake"


async def test_who_connects_and_does_not_shake_hands_is_given_up(authority: Authority) -> None:
    async with gateway(authority, "guard.keepalive_seconds=0.3") as running:
        reader, writer = await asyncio.open_connection(running.address.host, running.address.port)
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
