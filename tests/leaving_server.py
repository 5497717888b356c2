"""A gRPC server that stops at the moment in which it is called: it greets, reads the call, takes leave and is gone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SETTINGS, GOAWAY = 4, 7
INTERNAL_ERROR = 2  # what gRPC's own servers say then
A_CALL = 150  # bytes: more than a client sends before its first call


def frame(kind: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame of the connection itself."""
    return len(payload).to_bytes(3) + bytes([kind, 0]) + bytes(4) + payload


@contextmanager
def leaving_server() -> Iterator[str]:
    """Yields the address. It takes one connection, and is gone after it."""
    farewell = frame(GOAWAY, bytes(4) + INTERNAL_ERROR.to_bytes(4) + b"Server shutdown")

    def serve() -> None:
        connection, _ = listener.accept()
        listener.close()
        with connection, suppress(OSError):
            connection.settimeout(10)
            connection.sendall(frame(SETTINGS))
            read = 0
            while read < A_CALL and (data := connection.recv(4096)):
                read += len(data)
            connection.sendall(farewell)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()
