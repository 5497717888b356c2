"""Offers of players, well-formed and not, and the addresses that they are told."""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import given
from hypothesis import strategies as st

from gateway_service.problems import Problem
from gateway_service.webrtc.ice import IceServers, with_public
from gateway_service.webrtc.offers import MOST_CANDIDATES, read_candidates, read_offer
from gateway_service.webrtc.settings import WebrtcSection

from .watching import new_connection, offer_of


async def _offer() -> str:
    connection = new_connection()
    try:
        return await offer_of(connection)
    finally:
        await connection.close()


OFFER = asyncio.run(_offer())
LINES = OFFER.splitlines()


def test_an_offer_is_read() -> None:
    offer = read_offer(OFFER)
    assert offer.kinds == ("video", "audio")
    assert offer.ice_name in OFFER


def test_names_of_the_players_own_network_are_left_out_and_surplus_candidates() -> None:
    local = "a=candidate:1 1 udp 2113937151 4f1e0a8c-5d3c-4f0e-9a55-0d1c2b3a4f5e.local 50000 typ host"
    more = [f"a=candidate:{n} 1 udp 2113937151 192.0.2.7 {50_000 + n} typ host" for n in range(100)]
    place = LINES.index(next(line for line in LINES if line.startswith("a=candidate:")))
    offer = read_offer("\n".join([*LINES[:place], local, *more, *LINES[place:]]))
    assert ".local" not in offer.sdp
    assert offer.sdp.count("a=candidate:") < MOST_CANDIDATES
    SessionDescription.parse(offer.sdp)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a=recvonly", "a=sendonly"),
        ("m=audio", "m=application"),
        ("m=audio", "m=video"),
        ("a=ice-ufrag", "a=nothing"),
        ("a=ice-pwd", "a=nothing"),
        ("a=fingerprint", "a=nothing"),
        ("m=", "x="),
    ],
)
def test_an_offer_that_cannot_be_answered_is_refused(old: str, new: str) -> None:
    assert old in OFFER
    with pytest.raises(Problem) as caught:
        read_offer(OFFER.replace(old, new))
    assert caught.value.status == 400


def read_or_refused(read: Callable[[], object]) -> bool:
    """Tells if it is one of the two, and no error of ours."""
    try:
        read()
    except Problem as problem:
        return problem.status in {400, 422}
    return True


PLACES = st.integers(0, len(LINES) - 1)
CHANGES = st.tuples(PLACES, st.sampled_from(["drop", "double", "cut", "swap"]), st.integers(0, 80), st.text(max_size=20))


@given(st.lists(CHANGES, max_size=6))
def test_whatever_an_offer_says_it_is_read_or_refused(changes: list[tuple[int, str, int, str]]) -> None:
    lines = list(LINES)
    for place, change, at, text in changes:
        match change:
            case "drop":
                lines[place] = ""
            case "double":
                lines[place] = f"{lines[place]}\r\n{lines[place]}"
            case "cut":
                lines[place] = lines[place][:at] + text
            case "swap":
                lines[place], lines[at % len(lines)] = lines[at % len(lines)], lines[place]
    assert read_or_refused(lambda: read_offer("\r\n".join(lines)))


@given(st.text(max_size=200))
def test_whatever_candidates_say_they_are_read_or_refused(text: str) -> None:
    offer = read_offer(OFFER)
    for fragment in (text, f"a=candidate:{text}", f"a=ice-ufrag:{text}\r\na=candidate:1 1 udp 1 {text} 1 typ host"):
        assert read_or_refused(partial(read_candidates, fragment, offer))


def test_candidates_are_read() -> None:
    offer = read_offer(OFFER)
    candidate = "a=candidate:1 1 udp 2113937151 192.0.2.7 50000 typ host"
    (found,) = read_candidates("\r\n".join([f"a=ice-ufrag:{offer.ice_name}", candidate, "a=end-of-candidates"]), offer)
    assert (found.ip, found.port, found.sdpMLineIndex) == ("192.0.2.7", 50_000, 0)


def test_public_addresses_are_told_beside_each_of_their_kind() -> None:
    answer = (
        "a=candidate:ab 1 udp 2130706431 10.0.0.5 40000 typ host\r\na=candidate:cd 1 udp 2130706431 fd00::5 40001 typ host\r\n"
    )
    lines = with_public(answer, ["203.0.113.9", "198.51.100.1", "2001:db8::9"]).splitlines()
    assert [line.split()[4:6] for line in lines] == [
        ["10.0.0.5", "40000"],
        ["203.0.113.9", "40000"],
        ["198.51.100.1", "40000"],
        ["fd00::5", "40001"],
        ["2001:db8::9", "40001"],
    ]
    assert len({line.split()[0] for line in lines}) == 5
    assert with_public(answer, []) == answer


def test_turn_passwords_are_made_from_the_secret(tmp_path: Path) -> None:
    secret = tmp_path / "turn"
    secret.write_text("our secret\n")
    urls = {
        "stun_urls": ("stun:stun.example.com:3478",),
        "turn_urls": ("turn:turn.example.com:3478", "turns:turn.example.com:443?transport=tcp"),
    }
    servers = IceServers(WebrtcSection(turn_secret_file=secret, **urls))
    stun, turn, last = servers.links()
    assert stun == '<stun:stun.example.com:3478>; rel="ice-server"'
    name, password = re.findall(r'"([^"]*)"', last)[1:3]
    assert password == base64.b64encode(hmac.digest(b"our secret", name.encode(), "sha1")).decode()
    assert name in turn
    assert [each.urls for each in servers.configuration().iceServers] == [
        "stun:stun.example.com:3478",
        "turn:turn.example.com:3478",
    ]


def test_without_settings_no_server_is_asked() -> None:
    """aiortc would ask one of its own choice."""
    servers = IceServers(WebrtcSection())
    assert servers.links() == []
    assert servers.configuration().iceServers == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"stun_urls": ("turn:x:1",)},
        {"turn_urls": ("https://x",)},
        {"turn_urls": ("turn:x:3478",)},
        {"relay_only": True},
        {"public_addresses": ("example.com",)},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"urls|relay_only|addresses"):
        WebrtcSection(**wrong)
