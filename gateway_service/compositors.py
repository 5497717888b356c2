"""The connections to the compositing services, and if they answer.

A connection carries a limited number of sessions, since balancers limit the streams of one. Further sessions open another, and a
connection beyond the first is closed with its last session.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway_service.settings import CompositingServerSection
from lipsync_client import AsyncClient, LipsyncError, TlsOptions
from service_kit.clock import Clock
from service_kit.readiness import Readiness

CAUSE = "compositing"
# A look at the compositing services follows the last one so much later, sooner while none answers.
CHECK_S, CHECK_AGAIN_S = 5.0, 1.0
CHECK_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Connection:
    client: AsyncClient
    sessions: int = 0
    is_old: bool = False
    """Made with certificates that were renewed since: it takes no new sessions."""


class Compositors:
    """A pool of connections to one target. `close` it."""

    def __init__(self, section: CompositingServerSection, api_key: Callable[[], str]) -> None:
        """Call it on the event loop. `api_key` returns the key in use; "": none. Raises ValueError for unusable certificates."""
        self.api_key = api_key
        self.target = section.url
        self._section = section
        self.tls = _tls_options(section)
        self._connections = [_Connection(self._connect())]

    @property
    def client(self) -> AsyncClient:
        """A connection for calls other than sessions."""
        return self._connections[0].client

    @property
    def connections(self) -> int:
        """The number of connections."""
        return len(self._connections)

    @asynccontextmanager
    async def for_session(self) -> AsyncIterator[AsyncClient]:
        """Gives a connection for one session, during the block."""
        connection = self._with_room()
        connection.sessions += 1
        try:
            yield connection.client
        finally:
            connection.sessions -= 1
            if not connection.sessions and (connection is not self._connections[0] or connection.is_old):
                self._connections.remove(connection)
                await connection.client.close()

    async def renew(self) -> None:
        """Takes renewed certificates for new connections. Sessions keep the connections that they have."""
        old, self._connections = self._connections, [_Connection(self._connect())]
        for connection in old:
            connection.is_old = True
            if connection.sessions:
                self._connections.append(connection)
            else:
                await connection.client.close()

    async def close(self) -> None:
        """Closes all connections."""
        for connection in self._connections:
            await connection.client.close()

    async def follow(self, readiness: Readiness, clock: Clock) -> None:
        """Looks if a compositing service answers, again and again: the gateway is ready while one does."""
        last = None
        while True:
            problem = await self._problem()
            if problem is None:
                readiness.clear(CAUSE)
            else:
                readiness.block(CAUSE, "no compositing service answers")  # strangers read it: no addresses
                if problem != last:
                    log.warning("no compositing service answers at %s: %s", self.target, problem)
            last = problem
            await clock.sleep(CHECK_AGAIN_S if problem else CHECK_S)

    async def _problem(self) -> str | None:
        try:
            await self.client.health(timeout=CHECK_TIMEOUT_S)
        except LipsyncError as error:
            return str(error)
        return None

    def _with_room(self) -> _Connection:
        for connection in self._connections:
            if connection.sessions < self._section.sessions_per_connection and not connection.is_old:
                return connection
        connection = _Connection(self._connect())
        self._connections.append(connection)
        return connection

    def _connect(self) -> AsyncClient:
        return AsyncClient(self.target, tls=self.tls, api_key=self.api_key)


def _tls_options(section: CompositingServerSection) -> TlsOptions | None:
    tls = section.tls
    if not tls.is_on:
        return None
    return TlsOptions(
        ca_file=tls.ca_file, certificate_file=tls.certificate_file, key_file=tls.key_file, server_name=tls.server_name
    )
