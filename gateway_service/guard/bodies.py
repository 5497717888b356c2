"""Reads the bodies of requests, within limits of size and time."""

from __future__ import annotations

import asyncio

import grpc
from aiohttp import web

from gateway_service.problems import Problem

# The offers of players are far shorter, and nothing else is sent.
MAX_BODY_BYTES = 64 << 10


async def read_body(request: web.Request, *, seconds: float) -> bytes:
    """Returns the body. Raises Problem for one that is large, packed, or not there in time."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(415, "send the body as it is, without Content-Encoding", code=grpc.StatusCode.INVALID_ARGUMENT)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.content.iter_any():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    detail = f"the body has more than {MAX_BODY_BYTES} bytes"
                    raise Problem(413, detail, code=grpc.StatusCode.INVALID_ARGUMENT)
    except TimeoutError:
        detail = f"the body did not come whole within {seconds:g} s"
        raise Problem(408, detail, code=grpc.StatusCode.DEADLINE_EXCEEDED) from None
    return bytes(body)
