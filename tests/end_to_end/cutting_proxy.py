"""A TCP proxy on loopback that cuts connections after so many bytes, at any place of a message."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 1 << 16
_START_S = 30


class CuttingProxy:
    """Passes bytes on between clients and a server; use it as a context manager.

    Each connection is cut once the server has sent it the next number of `cuts`; those after the last one are not.
    """

    def __init__(self, target: str, cuts: Iterator[int]) -> None:
        self._host, self._port = target.rsplit(":", 1)
        self._cuts = cuts
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._listening = threading.Event()
        self._stop = asyncio.Event()
        self.address = ""
        self.connections = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(_START_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._listening.set()
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        most = next(self._cuts, None)
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        up = asyncio.create_task(_pass_on(reader, server_writer, None))
        down = asyncio.create_task(_pass_on(server_reader, writer, most))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the proxy ends; what asyncio started would log it
            pass
        finally:
            for task in (up, down):
                task.cancel()
            for each in (writer, server_writer):
                each.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(_CHUNK if most is None else min(_CHUNK, most)):
            writer.write(data)
            await writer.drain()
            if most is not None:
                most -= len(data)
                if most <= 0:
                    return
