"""Sends frames as one endless answer that an <img> shows: multipart/x-mixed-replace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from aiohttp import web

BOUNDARY = "lipsync-frame"
CONTENT_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
# So much may wait in the kernel for a slow viewer; what exceeds it is dropped as whole frames, before they are written.
_UNSENT_BYTES = 128 << 10


async def send_frames(
    request: web.Request, frames: AsyncIterator[bytes], *, ending: asyncio.Event, stall_s: float
) -> web.StreamResponse:
    """Sends JPEG files until there are no more, `ending` is set, or the viewer is gone or takes nothing for `stall_s` seconds."""
    response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
    _keep_little_unsent(request)
    await response.prepare(request)
    try:
        async for frame in frames:
            await _write(response, frame, stall_s)
            if ending.is_set():
                break
        await response.write(f"--{BOUNDARY}--\r\n".encode())
    except (ConnectionError, TimeoutError):
        if request.transport:
            request.transport.abort()
    return response


async def _write(response: web.StreamResponse, frame: bytes, stall_s: float) -> None:
    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(frame)}\r\n\r\n".encode()
    async with asyncio.timeout(stall_s):
        await response.write(b"%s%s\r\n" % (head, frame))


def _keep_little_unsent(request: web.Request) -> None:
    """Asks the kernel not to take seconds of frames that the viewer has no time for."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    held = request.transport.get_extra_info("socket") if request.transport else None
    if option is not None and held is not None and held.family in {socket.AF_INET, socket.AF_INET6}:
        held.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)
