"""A network in between that loses packets: each of the gateway's candidates gets a socket before it."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

_CANDIDATE = re.compile(r"(a=candidate:\S+ \d+ udp \d+) (\S+) (\d+) typ host")
Address = tuple[str, int]
Loses = Callable[[bool], bool]
"""Tells if a packet of media is lost; it is told if the packet comes from the gateway."""


def nothing(_is_down: bool) -> bool:
    """Loses nothing."""
    return False


def every(count: int, *, most: int) -> Loses:
    """Loses every so manyth packet of the gateway's, so many in all."""
    seen = itertools.count(1)
    lost = {count * number for number in range(1, most + 1)}
    return lambda is_down: is_down and next(seen) in lost


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, receive: Callable[[bytes, Address], None]) -> None:
        self._receive = receive

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._receive(data, address)


class Relay:
    """The sockets. `loses` may be replaced while it runs."""

    def __init__(self, loses: Loses) -> None:
        self.loses = loses
        self.lost = 0
        self._sockets: list[_Socket] = []

    async def before(self, answer: str) -> str:
        """Returns an answer whose candidates are the relay's."""
        for head, host, port in _CANDIDATE.findall(answer):
            if ":" in host:
                answer = re.sub(rf"{re.escape(head)}.*\r\n", "", answer)
                continue
            mine = await self._open((host, int(port)))
            answer = answer.replace(f"{head} {host} {port} ", f"{head} 127.0.0.1 {mine} ")
        return answer

    def close(self) -> None:
        for each in self._sockets:
            each.transport.close()

    async def _open(self, gateway: Address) -> int:
        player: list[Address] = []

        def up(data: bytes, address: Address) -> None:
            player[:] = [address]
            if not self._is_lost(data, is_down=False):
                inside.transport.sendto(data, gateway)

        def down(data: bytes, _address: Address) -> None:
            if player and not self._is_lost(data, is_down=True):
                outside.transport.sendto(data, player[0])

        outside, inside = await self._bind("127.0.0.1", up), await self._bind("0.0.0.0", down)
        port: int = outside.transport.get_extra_info("sockname")[1]
        return port

    async def _bind(self, host: str, receive: Callable[[bytes, Address], None]) -> _Socket:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_datagram_endpoint(lambda: _Socket(receive), local_addr=(host, 0))
        self._sockets.append(made)
        return made

    def _is_lost(self, data: bytes, *, is_down: bool) -> bool:
        """Keeps what tells each side that the other is there (RFC 7983), without which both give up after half a minute."""
        lost = 128 <= data[0] <= 191 and self.loses(is_down)
        self.lost += lost
        return lost


@asynccontextmanager
async def relay(loses: Loses) -> AsyncIterator[Relay]:
    made = Relay(loses)
    try:
        yield made
    finally:
        made.close()
