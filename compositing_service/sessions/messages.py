"""Reads the messages of a session off the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Self

from numpy.typing import NDArray

from compositing_service.sessions.sound import checked
from compositing_service.sessions.tables import INPUT, Input, Message
from service_kit.errors import InvalidRequest, Violation
from shared_proto import compositing_pb2 as pb

# Decoding less takes less time than passing it to a thread.
_LARGE_BYTES = 256 << 10
# Short beside what a session may hold, and so that resampling one delays no other session.
_PIECES_A_SECOND = 4

assert list(INPUT[Input.AWAITING_CONFIG]) == [Message.CONFIG]


class Parsed:
    """Decodes messages. Raises InvalidRequest for bytes that are none. Keeps none of them, as they may be large."""

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        self._messages = messages

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.SessionRequest:
        """Returns the next message."""
        data = await anext(self._messages)
        try:
            return pb.SessionRequest.FromString(data)
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


async def sound_pieces(data: bytes, encoding: int, rate: int) -> Iterable[NDArray[Any]]:
    """Checks sound, if long on a thread, and returns its samples as they are, in short pieces. Raises InvalidRequest."""
    is_large = len(data) > _LARGE_BYTES
    samples = await asyncio.to_thread(checked, data, encoding) if is_large else checked(data, encoding)
    size = rate // _PIECES_A_SECOND
    if len(samples) <= size:
        return (samples,)
    # Copied, as a piece must not hold the whole message.
    return (samples[first : first + size].copy() for first in range(0, len(samples), size))
