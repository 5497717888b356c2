"""gRPC's own server on threads, for tests that play a service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import grpc

T = TypeVar("T")

OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]


@contextmanager
def serving(
    add: Callable[[T, grpc.Server], None],
    servicer: T,
    *,
    credentials: grpc.ServerCredentials | None = None,
    threads: int = 16,
) -> Iterator[str]:
    """Serves on a free port of loopback during the block, and gives the address. `add`: the generated function that registers."""
    with ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool, options=OPTIONS)
        add(servicer, server)
        place = "127.0.0.1:0"
        port = server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()
