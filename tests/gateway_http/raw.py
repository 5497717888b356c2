"""HTTP written by hand, for what no client would send."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from service_kit.life import RunningService

ANSWER_S = 60


@dataclass(frozen=True)
class Answer:
    """The answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem details."""
        assert self.headers["content-type"].partition(";")[0] == "application/problem+json", self
        content: dict[str, Any] = json.loads(self.body)
        assert content["status"] == self.status
        return content


async def connected(gateway: RunningService, *, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP connection from one of loopback's addresses."""
    address = gateway.address
    return await asyncio.open_connection(address.host, address.port, local_addr=(source, 0))


async def request(
    gateway: RunningService, *lines: str, method: str = "GET", path: str = "/", source: str = "127.0.0.1"
) -> Answer:
    """One request with these header lines, and its answer to the end of the connection."""
    head = [f"{method} {path} HTTP/1.1", *lines, "Connection: close"]
    if not any(line.lower().startswith("host:") for line in lines):
        head.append("Host: here")
    return await sent(gateway, "\r\n".join([*head, "", ""]).encode("utf-8", "surrogateescape"), source=source)


async def sent(gateway: RunningService, data: bytes, *, source: str = "127.0.0.1") -> Answer:
    """Sends bytes as they are, and reads the answer until the connection ends."""
    reader, writer = await connected(gateway, source=source)
    try:
        async with asyncio.timeout(ANSWER_S):
            writer.write(data)
            return parsed(await reader.read())
    finally:
        writer.close()


def parsed(data: bytes) -> Answer:
    """Reads one answer; its body as it is on the wire."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(map(_pair, lines))
    return Answer(int(first.split(" ")[1]), headers, body)


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()
