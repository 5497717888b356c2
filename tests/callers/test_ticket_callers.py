"""Whose a session is that a ticket opens, where the handshake names a caller too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from ..gateway_http.conftest import calling
from .conftest import Guarded
from .test_gateway_callers import DENIED, UNAUTHENTICATED, bearer, began, session, ticket


@pytest.fixture
async def http(guarded: Guarded, keys: dict[str, str]) -> AsyncIterator[aiohttp.ClientSession]:
    """A gateway that serves callers without a credential too."""
    own = guarded.keys.with_name("gateway-of-all.key")
    own.write_text(keys["gateway"])
    settings = f"auth.keys_file={guarded.keys}", "auth.anonymous=[infer]", f"compositing_server.api_key_file={own}"
    async with calling(guarded.compositing.address, *settings) as opened:
        yield opened


async def test_a_ticket_counts_before_what_is_allowed_without_a_credential(
    http: aiohttp.ClientSession, keys: dict[str, str]
) -> None:
    async with session(http, "private") as socket:
        assert await began(socket)
    async with session(http, "private", ticket=await ticket(http, keys["guest"])) as socket:
        assert not await began(socket)
        assert socket.close_code == DENIED


async def test_a_bad_ticket_is_refused_where_none_is_needed(http: aiohttp.ClientSession) -> None:
    async with session(http, ticket="nonsense") as socket:
        assert not await began(socket)
        assert socket.close_code == UNAUTHENTICATED


async def test_a_key_and_a_ticket_are_two_credentials(http: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    good = await ticket(http, keys["alice"])
    async with session(http, headers=bearer(keys["alice"]), ticket=good) as socket:
        assert not await began(socket)
        assert socket.close_code == UNAUTHENTICATED
