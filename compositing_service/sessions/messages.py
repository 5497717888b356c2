"""Reads the messages of a session off the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from compositing_service.sessions.sound import Samples, decode
from compositing_service.sessions.tables import INPUT, Input, Message
from service_kit.errors import InvalidRequest, Violation
from shared_proto import compositing_pb2 as pb

# Decoding less takes less time than passing it to a thread.
_LARGE_BYTES = 256 << 10

assert list(INPUT[Input.AWAITING_CONFIG]) == [Message.CONFIG]


async def parsed(messages: AsyncIterator[bytes]) -> AsyncIterator[pb.SessionRequest]:
    """Decodes messages. Raises InvalidRequest for bytes that are none."""
    async for data in messages:
        try:
            yield pb.SessionRequest.FromString(data)
        except Exception:
            raise InvalidRequest([Violation("", "the message cannot be decoded: it is no SessionRequest")]) from None


async def first_config(messages: AsyncIterator[pb.SessionRequest]) -> pb.SessionConfig:
    """Returns the configuration, which must come first. Raises InvalidRequest if anything else does, or nothing."""
    async for message in messages:
        kind = message.WhichOneof("message")
        if kind == "config":
            return message.config
        if kind is not None:
            raise InvalidRequest([Violation("config", f"must come first, not {kind}")])
    raise InvalidRequest([Violation("config", "is missing: send it first")])


async def read_sound(data: bytes, encoding: int) -> Samples:
    """Decodes sound, much of it on a thread. Raises InvalidRequest."""
    if len(data) > _LARGE_BYTES:
        return await asyncio.to_thread(decode, data, encoding)
    return decode(data, encoding)
