"""Several gateways behind a balancer that knows nothing of sessions and viewers: whichever is asked, the right one answers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from gateway_service.holders import PASSED_ON

from ..end_to_end.processes import Service, free_port
from ..gateway_http.conftest import running_gateway
from ..gateway_http.shown_pictures import until_sessions
from ..gateway_service.sockets import page
from ..tls.authority import Authority
from .watching import SDP, new_connection, offer_of, player

AT_REST = "/api/avatars/small/whep"
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


@pytest.fixture
async def both(compositing: Service) -> AsyncIterator[list[str]]:
    """The addresses of two gateways that are told of each other, and of one that cannot be looked up."""
    ports = [free_port(), free_port()]
    told = f"server.gateways={[*(f'localhost:{port}' for port in ports), 'nowhere.invalid:8086']}"
    async with AsyncExitStack() as stack:
        for port in ports:
            await stack.enter_async_context(running_gateway(compositing.address, f"server.port=127.0.0.1:{port}", told))
        yield [f"http://127.0.0.1:{port}" for port in ports]


async def test_a_viewer_is_changed_and_deleted_at_any_gateway(both: list[str], compositing: Service) -> None:
    connection = new_connection()
    async with aiohttp.ClientSession() as http:
        async with http.post(both[0] + AT_REST, data=await offer_of(connection), headers=SDP) as answer:
            address, etag = answer.headers["Location"], answer.headers["ETag"]
        for gateway in both:
            async with http.patch(gateway + address, data="", headers=FRAGMENT) as answer:
                assert (answer.status, answer.content_type) == (428, "application/problem+json")
            async with http.patch(gateway + address, data="", headers=FRAGMENT | {"If-Match": etag}) as answer:
                assert answer.status == 204
        async with http.delete(both[1] + address) as answer:
            assert answer.status == 200
        for gateway in both:
            async with http.delete(gateway + address) as answer:
                assert answer.status == 404
    await connection.close()
    await until_sessions(compositing, 0)


async def test_a_session_is_watched_by_way_of_any_gateway(both: list[str]) -> None:
    async with aiohttp.ClientSession(both[1]) as http, page(both[0], {"model_id": "small"}) as socket:
        await socket.wait(lambda: socket.of("started"))
        secret = socket.of("started")[0]["secret"]
        async with player(http, f"/api/sessions/{secret}/whep") as watching:
            await watching.until(pictures=3, sound=3)
        async with http.get(f"/api/sessions/{secret}/stream.mjpeg") as answer:
            assert answer.content_type == "multipart/x-mixed-replace"
            assert await answer.content.readuntil(b"\xff\xd9")


@pytest.mark.parametrize("secret", ["made-up", "made-up.0123456789ab", "made-up.", ".", "." * 200])
async def test_secrets_that_are_made_up_lead_nowhere(both: list[str], secret: str) -> None:
    async with aiohttp.ClientSession() as http, http.delete(f"{both[0]}/api/whep/{secret}") as answer:
        assert answer.status == 404


async def test_what_was_passed_on_is_answered_where_it_comes(both: list[str]) -> None:
    """Two gateways cannot send a request to and fro."""
    connection = new_connection()
    async with aiohttp.ClientSession() as http:
        async with http.post(both[0] + AT_REST, data=await offer_of(connection), headers=SDP) as answer:
            address = answer.headers["Location"]
        async with http.delete(both[1] + address, headers={PASSED_ON: "1"}) as answer:
            assert answer.status == 404
        async with http.delete(both[0] + address) as answer:
            assert answer.status == 200
    await connection.close()


async def test_a_gateway_that_has_gone_took_what_it_held_along(compositing: Service) -> None:
    ports = [free_port(), free_port()]
    told = f"server.gateways={[f'localhost:{port}' for port in ports]}"
    connection = new_connection()
    async with (
        aiohttp.ClientSession() as http,
        running_gateway(compositing.address, f"server.port=127.0.0.1:{ports[0]}", told) as stays,
    ):
        async with running_gateway(compositing.address, f"server.port=127.0.0.1:{ports[1]}", told) as goes:
            offer = await offer_of(connection)
            async with http.post(f"http://{goes.address.reachable}{AT_REST}", data=offer, headers=SDP) as answer:
                address = answer.headers["Location"]
        async with http.delete(f"http://{stays.address.reachable}{address}") as answer:
            assert answer.status == 404
    await connection.close()


async def test_gateways_with_tls_show_each_other_their_certificates(compositing: Service, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "tls")
    own, client = authority.pair("gateway"), authority.pair("client")
    ports = [free_port(), free_port()]
    settings = (
        f"server.gateways={[f'localhost:{port}' for port in ports]}",
        f"tls.certificate_file={own.certificate}",
        f"tls.key_file={own.key}",
        f"tls.client_ca_file={authority.certificate}",
        "tls.allowed_client_names=[client, gateway]",
    )
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(client.certificate, client.key)
    connection = new_connection()
    async with AsyncExitStack() as stack:
        for port in ports:
            await stack.enter_async_context(running_gateway(compositing.address, f"server.port=127.0.0.1:{port}", *settings))
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)))
        offer = await offer_of(connection)
        async with http.post(f"https://localhost:{ports[0]}{AT_REST}", data=offer, headers=SDP) as answer:
            address = answer.headers["Location"]
        async with http.delete(f"https://localhost:{ports[1]}{address}") as answer:
            assert answer.status == 200
    await connection.close()
