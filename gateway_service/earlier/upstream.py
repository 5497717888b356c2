"""The connection to the compositing services' face for the earlier servers' clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway_service.identity.callers import caller_metadata
from lipsync_client.earlier import EarlierClient

T = TypeVar("T")


class _Connection:
    def __init__(self, client: EarlierClient) -> None:
        self.client = client
        self.calls = 0


class EarlierUpstream:
    """Makes calls over one connection, and over another once its certificates are renewed. `close` it."""

    def __init__(self, connect: Callable[[], EarlierClient]) -> None:
        """Call it on the event loop. Raises ValueError for certificates that cannot be used."""
        self._connect = connect
        self._connection = _Connection(connect())

    async def ask(self, call: Callable[[EarlierClient], Awaitable[T]]) -> T:
        """Returns the result of a call, made in the name of the caller. Raises LipsyncError."""
        connection = self._connection
        connection.calls += 1
        try:
            return await call(connection.client.with_metadata(caller_metadata()))
        finally:
            connection.calls -= 1
            if connection is not self._connection and not connection.calls:
                await connection.client.close()

    async def renew(self) -> None:
        """Takes renewed certificates for new calls. Those under way keep the connection that they have."""
        old, self._connection = self._connection, _Connection(self._connect())
        if not old.calls:
            await old.client.close()

    async def close(self) -> None:
        """Ends the connection."""
        await self._connection.client.close()
