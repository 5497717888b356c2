"""The public keys of an issuer, asked for at a server that a test holds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from service_kit.callers.signing_keys import COOLDOWN_S
from service_kit.errors import ServiceError, Unavailable
from service_kit.tasks import beside

from ..virtual_clock import VirtualClock
from .issued_tokens import BOTH, OTHER, Checked, claims, jwks, public, public_curve, section, signed


class Issuer:
    """A server of public keys on loopback, which answers as a test says."""

    def __init__(self) -> None:
        self.content, self.status, self.location = BOTH, 200, ""
        self.asked = 0
        self.go_on = threading.Event()
        self.go_on.set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                issuer.go_on.wait(30)
                self.send_response(issuer.status)
                if issuer.location:
                    self.send_header("Location", issuer.location)
                self.end_headers()
                self.wfile.write(issuer.content.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.go_on.set()
    made.server.shutdown()
    made.server.server_close()


async def test_a_flood_of_unknown_keys_asks_the_issuer_once_a_while(issuer: Issuer) -> None:
    clock = VirtualClock()
    checked = Checked(section(jwks_url=issuer.url), clock)
    await asyncio.gather(*(checked.refusal(signed(claims(), kid=f"x{n}")) for n in range(50)))
    assert issuer.asked == 1
    await checked.caller(signed(claims()))
    issuer.content = jwks(public(OTHER, "r2"))
    new = signed(claims(), key=OTHER, kid="r2")
    await checked.refusal(new)
    assert issuer.asked == 1
    await clock.advance(COOLDOWN_S)
    await checked.caller(new)
    assert issuer.asked == 2
    await checked.refusal(signed(claims()))  # the issuer has taken that key back


async def test_keys_are_asked_for_again_now_and_then(issuer: Issuer) -> None:
    clock = VirtualClock()
    checked = Checked(section(jwks_url=issuer.url, refresh_seconds=300), clock)
    async with beside(checked.authority.follow()):
        await clock.asleep()
        await checked.caller(signed(claims()))
        issuer.content = jwks(public_curve("e1"))
        await clock.advance(300)
        await clock.asleep()
        await checked.refusal(signed(claims()))
        assert issuer.asked == 2


async def test_an_issuer_that_fails_leaves_the_old_keys(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock()
    checked = Checked(section(jwks_url=issuer.url), clock)
    await checked.caller(signed(claims()))
    for status, content, location in ((500, "", ""), (200, "{", ""), (200, " " * (2 << 20), ""), (302, "", issuer.url)):
        issuer.status, issuer.content, issuer.location = status, content, location
        before = issuer.asked
        await clock.advance(COOLDOWN_S)
        await checked.refusal(signed(claims(), kid="nobody"))
        assert issuer.asked == before + 1
        await checked.caller(signed(claims()))
    assert caplog.text.count("cannot be had") == 4


async def test_without_any_keys_yet_callers_are_told_to_come_back(issuer: Issuer) -> None:
    issuer.status = 500
    with pytest.raises(Unavailable):
        await Checked(section(jwks_url=issuer.url)).caller(signed(claims()))


async def test_a_slow_issuer_keeps_nobody_waiting_whose_key_is_known(issuer: Issuer) -> None:
    clock = VirtualClock()
    checked = Checked(section(jwks_url=issuer.url), clock)
    await checked.caller(signed(claims()))
    issuer.go_on.clear()
    await clock.advance(COOLDOWN_S)
    waiting = asyncio.create_task(checked.caller(signed(claims(), kid="nobody")))
    while issuer.asked < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await checked.caller(signed(claims()))
    assert not waiting.done()
    issuer.go_on.set()
    with pytest.raises(ServiceError):
        await waiting
