"""WHEP through a TURN server alone: neither side knows an address of the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnection

from ..end_to_end.processes import Service
from ..gateway_http.conftest import calling
from ..turn_server import TurnServer, running_turn
from .watching import SDP, new_connection, offer_of, player

AT_REST = "/api/avatars/small/whep"
LINK = re.compile(r'<(turn:[^>]+)>; rel="ice-server"; username="([^"]+)"; credential="([^"]+)"; credential-type="password"')
CANDIDATES = re.compile(r"a=candidate:.* typ (\w+)")


@pytest.fixture
def turn(tmp_path: Path) -> Iterator[TurnServer]:
    with running_turn(tmp_path) as server:
        yield server


def settings(turn: TurnServer) -> tuple[str, ...]:
    """Those of a gateway whose viewers come by the server alone."""
    return f"webrtc.turn_urls=[{turn.url!r}]", f"webrtc.turn_secret_file={turn.secret_file}", "webrtc.relay_only=true"


async def configuration(http: aiohttp.ClientSession) -> RTCConfiguration:
    """The servers by which a player is told to connect."""
    async with http.head(AT_REST) as answer:
        (link,) = answer.headers.getall("Link")
    found = LINK.fullmatch(link)
    assert found
    return RTCConfiguration([RTCIceServer(*found.groups())], RTCIceTransportPolicy.RELAY)


async def test_a_viewer_watches_by_the_relay_alone(compositing: Service, turn: TurnServer) -> None:
    async with calling(compositing.address, *settings(turn)) as http:
        connection = RTCPeerConnection(await configuration(http))
        async with player(http, AT_REST, connection=connection) as watching:
            assert set(CANDIDATES.findall(watching.connection.localDescription.sdp)) == {"relay"}
            assert set(CANDIDATES.findall(watching.connection.remoteDescription.sdp)) == {"relay"}
            await watching.until(pictures=10, sound=10)
    assert turn.allocations() >= 2  # the gateway and the player: one each, or one for each kind


async def test_nobody_watches_by_a_server_that_does_not_know_the_secret(compositing: Service, turn: TurnServer) -> None:
    """The gateway has no address of its own to offer instead."""
    turn.secret_file.write_text("another")
    connection = new_connection()
    async with (
        calling(compositing.address, *settings(turn)) as http,
        http.post(AT_REST, data=await offer_of(connection), headers=SDP) as answer,
    ):
        assert answer.status == 201
        assert not CANDIDATES.findall(await answer.text())
    await connection.close()
    assert turn.allocations() == 0
