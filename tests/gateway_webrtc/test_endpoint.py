"""WHEP as players find it: who may watch, how many, for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gateway_service.webrtc.offers import MOST_CANDIDATES
from lipsync_cli.keys import create, revoke_caller

from ..end_to_end.processes import Service
from ..gateway_http.conftest import calling, running_gateway
from ..gateway_http.shown_pictures import until_sessions
from .watching import SDP, new_connection, offer_of, player

AT_REST = "/api/avatars/small/whep"


@pytest.fixture
async def offer() -> AsyncIterator[str]:
    connection = new_connection()
    yield await offer_of(connection)
    await connection.close()


async def test_players_of_other_pages_are_told_what_they_may_send_and_read() -> None:
    async with calling("127.0.0.1:1", 'guard.allowed_origins=["https://app.example.com"]') as http:
        origin = {"Origin": "https://app.example.com"}
        async with http.options(AT_REST, headers=origin) as answer:
            assert answer.status == 204
            assert answer.headers["Accept-Post"] == "application/sdp"
            assert {"POST", "PATCH", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
            assert {"Content-Type", "If-Match", "Authorization"} <= set(
                answer.headers["Access-Control-Allow-Headers"].split(", ")
            )
        async with http.head(AT_REST, headers=origin) as answer:
            assert (answer.status, answer.content_type) == (200, "application/sdp")
            assert {"ETag", "Link", "Location"} <= set(answer.headers["Access-Control-Expose-Headers"].split(", "))
        async with http.options("/api/whep/x") as answer:
            assert answer.headers["Accept-Patch"] == "application/trickle-ice-sdpfrag"
        async with http.post(AT_REST, headers=SDP | {"Origin": "https://evil.example"}) as answer:
            assert answer.status == 403


async def test_a_viewer_that_is_deleted_is_gone_for_the_services_too(compositing: Service, offer: str) -> None:
    async with calling(compositing.address) as http:
        async with http.post(AT_REST, data=offer, headers=SDP) as answer:
            address = answer.headers["Location"]
            assert "a=sendonly" in await answer.text()
        async with http.delete(address, headers={"If-Match": '"another"'}) as answer:
            assert answer.status == 200
        async with http.delete(address) as answer:
            assert answer.status == 404
        await until_sessions(compositing, 0)


async def test_one_who_does_not_connect_is_ended(compositing: Service, offer: str) -> None:
    async with calling(compositing.address, "webrtc.connect_seconds=1") as http:
        async with http.post(AT_REST, data=offer, headers=SDP) as answer:
            assert answer.status == 201
        await until_sessions(compositing, 0)
        async with http.delete(answer.headers["Location"]) as gone:
            assert gone.status == 404


class Knocks(asyncio.DatagramProtocol):
    """Hears a gateway try the addresses of a player."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.set()


async def test_a_gateway_knocks_at_few_addresses_however_often_a_player_names_more(compositing: Service, offer: str) -> None:
    """Else a player could let it knock at the doors of others."""
    loop = asyncio.get_running_loop()
    opened = [await loop.create_datagram_endpoint(Knocks, ("127.0.0.1", 0)) for _ in range(MOST_CANDIDATES + 2)]
    ports = [transport.get_extra_info("sockname")[1] for transport, _ in opened]
    bare = "".join(line for line in offer.splitlines(keepends=True) if "candidate" not in line)
    async with calling(compositing.address) as http:
        async with http.post(AT_REST, data=bare, headers=SDP) as answer:
            patch = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": answer.headers["ETag"]}
            address = answer.headers["Location"]
        for port in ports:
            fragment = f"a=candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host\r\n"
            async with http.patch(address, data=fragment, headers=patch) as answer:
                assert answer.status == 204
        async with asyncio.timeout(60):
            for _, knocks in opened[:MOST_CANDIDATES]:
                await knocks.heard.wait()
    assert not [port for port, (_, knocks) in zip(ports, opened, strict=True) if knocks.heard.is_set()][MOST_CANDIDATES:]
    for transport, _ in opened:
        transport.close()


async def test_a_player_that_closes_its_connection_is_gone(compositing: Service) -> None:
    async with calling(compositing.address) as http, player(http, AT_REST) as watching:
        await watching.until(pictures=3)
        await watching.connection.close()
        await until_sessions(compositing, 0)


async def test_a_full_gateway_says_when_to_come_back(compositing: Service, offer: str) -> None:
    async with calling(compositing.address, "webrtc.max_viewers=1") as http:
        async with http.post(AT_REST, data=offer, headers=SDP) as first, http.post(AT_REST, data=offer, headers=SDP) as second:
            assert (first.status, second.status) == (201, 503)
            assert int(second.headers["Retry-After"]) > 0
        async with http.delete(first.headers["Location"]), http.post(AT_REST, data=offer, headers=SDP) as third:
            assert third.status == 201


async def test_viewers_of_an_address_count_with_its_other_sockets(compositing: Service, offer: str) -> None:
    async with (
        calling(compositing.address, "guard.max_sockets_per_address=1") as http,
        http.post(AT_REST, data=offer, headers=SDP) as first,
        http.get("/api/avatars/small/stream.mjpeg") as second,
    ):
        assert (first.status, second.status) == (201, 429)


async def test_a_viewer_ends_with_its_callers_key(compositing: Service, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    made = create(keys, "watcher", scopes=["infer"], avatars=["small"], valid=None)
    header = {"Authorization": f"Bearer {made.text}"}
    async with calling(compositing.address, f"auth.keys_file={keys}", "auth.reload_seconds=0.2") as http:
        async with http.post(AT_REST, headers=SDP) as answer:
            assert answer.status == 401
        async with http.post("/api/avatars/demo/whep", headers=SDP | header) as answer:
            assert answer.status == 403
        async with player(http, AT_REST, headers=header) as watching:
            await watching.until(pictures=3)
            revoke_caller(keys, "watcher")
            await watching.until_over()


async def test_viewers_of_an_avatar_end_with_the_gateway(compositing: Service) -> None:
    async with aiohttp.ClientSession() as http:
        async with running_gateway(compositing.address, "server.grace_seconds=20") as running:
            offering = new_connection()
            url = f"http://{running.address.reachable}{AT_REST}"
            async with http.post(url, data=await offer_of(offering), headers=SDP) as answer:
                assert answer.status == 201
        await offering.close()
        await until_sessions(compositing, 0)


async def test_a_gateway_without_it_says_so(offer: str) -> None:
    async with calling("127.0.0.1:1", "webrtc.enabled=false") as http:
        async with http.post(AT_REST, data=offer, headers=SDP) as answer:
            assert answer.status == 501
        async with http.get("/api/page.json") as answer:
            assert (await answer.json())["webrtc"] == {"available": False}
