"""The end of a WebSocket: its close code, and the error event before it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
from aiohttp import WebSocketError, WSCloseCode, WSMessage, WSMsgType, web

from gateway_service.websocket.events import error_text
from lipsync_client import LipsyncError
from service_kit.errors import ServiceError

# Close codes of errors are this and the number of the gRPC status.
ERROR_CODES = 4000
# A browser that still reads answers a close at once.
CLOSE_SECONDS = 2.0
# The protocol's limit, in bytes of UTF-8.
LONGEST_REASON = 123
_NAMES = {
    0: "CLIENT_LEFT",
    WSCloseCode.OK: "OK",
    WSCloseCode.GOING_AWAY: "GOING_AWAY",
    WSCloseCode.MESSAGE_TOO_BIG: "TOO_LARGE",
}


class Ending(Exception):
    """Ends the socket, where it has not ended already. `code` 0: the client did."""

    def __init__(self, code: int, reason: str = "", *, error: LipsyncError | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.error = error

    @property
    def name(self) -> str:
        """In logs and metrics: the gRPC status, or how the socket ended without one."""
        if self.error:
            return self.error.code.name
        return _NAMES.get(self.code, "POLICY")


def failed(error: LipsyncError) -> Ending:
    """Ends it with an error event."""
    return Ending(ERROR_CODES + error.code.value[0], error.code.name, error=error)


def invalid(problems: str) -> Ending:
    """Ends it for a message that cannot be accepted."""
    return failed(LipsyncError(grpc.StatusCode.INVALID_ARGUMENT, problems))


def refused(error: ServiceError) -> Ending:
    """Ends it for a caller who may not do that."""
    return failed(LipsyncError(error.code, error.message))


def client_left(last: WSMessage | None = None) -> Ending:
    """The client has closed the socket, or its connection is lost, or it has sent too large a message."""
    error = last.data if last and last.type is WSMsgType.ERROR else None
    too_large = isinstance(error, WebSocketError) and error.code == WSCloseCode.MESSAGE_TOO_BIG
    return Ending(WSCloseCode.MESSAGE_TOO_BIG if too_large else 0)


async def close_socket(request: web.Request, socket: web.WebSocketResponse, ending: Ending) -> None:
    """Sends the error, if there is one, and closes. Cuts off a client that does not take it in time."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(CLOSE_SECONDS):
            if ending.error and not socket.closed:
                await socket.send_str(error_text(ending.error))
            if ending.code and not socket.closed:
                await socket.close(code=ending.code, message=ending.reason.encode()[:LONGEST_REASON])
    # Closing it would wait without end for a client that does not read.
    if request.transport and request.transport.get_write_buffer_size():
        request.transport.abort()
