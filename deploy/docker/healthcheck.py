#!/usr/bin/env -S python3 -IS
"""Exit code 0 when the service in this container is ready, else 1: it asks for /health/ready on $READY_PORT.

Runs every few seconds, so it imports no more than a socket, and needs nothing of its environment.
"""

import os
import socket
import sys

TIMEOUT_S = 2.0


def status_line() -> bytes:
    """The first line of the answer; empty when there is none."""
    with socket.create_connection(("127.0.0.1", int(os.environ["READY_PORT"])), TIMEOUT_S) as connection:
        connection.sendall(b"GET /health/ready HTTP/1.0\r\n\r\n")
        connection.settimeout(TIMEOUT_S)
        return connection.makefile("rb").readline(200)


if __name__ == "__main__":
    try:
        sys.exit(0 if b" 200 " in status_line() else 1)
    except OSError as error:
        sys.exit(f"not ready: {error}")
