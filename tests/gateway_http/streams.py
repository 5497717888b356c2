"""Reads moving pictures as a browser does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp

READ_S = 60


async def pictures(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The JPEG files of a multipart answer, until its end."""
    reader = aiohttp.MultipartReader.from_response(answer)
    async with asyncio.timeout(READ_S):
        while (part := await reader.next()) is not None:
            assert part.headers["Content-Type"] == "image/jpeg"
            yield bytes(await part.read())
