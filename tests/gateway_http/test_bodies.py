"""Bodies of requests that never come whole, are packed, or end in the middle."""

from __future__ import annotations

import asyncio
import gzip
import logging
from contextlib import suppress
from hashlib import sha256

import pytest

from service_kit.life import RunningService

from .conftest import running_gateway
from .raw import connected, parsed, sent
from .test_guard import NOBODY, drip

OFFER = b"POST /api/avatars/small/whep HTTP/1.1\r\nHost: here\r\nContent-Type: application/sdp\r\nContent-Length: 1000\r\n\r\n"
# To the gateway at another address, which the secret names.
ELSEWHERE = sha256(b"127.0.0.2 1").hexdigest()[:12].encode()
PASSED_ON = b"PATCH /api/whep/secret.%s HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n" % ELSEWHERE


@pytest.mark.parametrize("head", [OFFER, PASSED_ON], ids=["an offer", "for another gateway"])
async def test_a_body_that_never_ends_is_given_up(head: bytes) -> None:
    async with running_gateway(NOBODY, "guard.keepalive_seconds=0.3", 'server.gateways=["127.0.0.2:1"]') as gateway:
        reader, writer = await connected(gateway)
        writer.write(head)
        dripping = asyncio.create_task(drip(writer))
        async with asyncio.timeout(25):  # less than by default
            answer = parsed(await reader.readuntil(b"}"))
            assert (answer.status, answer.problem["code"]) == (408, "DEADLINE_EXCEEDED")
            with suppress(ConnectionError):
                assert not await reader.read()
        dripping.cancel()
        writer.close()


async def test_a_packed_body_is_refused(bare: RunningService) -> None:
    body = gzip.compress(b"v=0\r\n" * 100_000)
    head = OFFER.replace(b"1000", b"%d\r\nConnection: close\r\nContent-Encoding: gzip" % len(body))
    assert (await sent(bare, head + body)).status == 415


async def test_a_caller_that_goes_in_the_middle_is_no_error_of_ours(
    bare: RunningService, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await connected(bare)
    writer.write(OFFER + b"v=0")
    async with asyncio.timeout(60):
        while not bare.face.calls.running:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
        writer.close()
        while bare.face.calls.running:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
