"""A real gRPC server on loopback with the kit's interceptors and whatever handlers a test brings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest

from service_kit.admission import RunningCalls
from service_kit.interceptors import CallInterceptor
from service_kit.metrics import Metrics
from service_kit.receiving import Receiving
from service_kit.replying import Replying

from .hosting import Parts

Start = Callable[..., Awaitable[grpc.aio.Channel]]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def start(metrics: Metrics) -> AsyncIterator[Start]:
    """`channel = await start(Unary=handler, ...)`: RPCs of /test.Test, bytes in and out; or a method handler."""
    async with AsyncExitStack() as stack:

        async def start_server(
            *,
            calls: RunningCalls | None = None,
            receiving: Receiving | None = None,
            max_reply_bytes: int = 1 << 30,
            sample_rate: int = 1,
            client_options: Sequence[tuple[str, Any]] = (),
            **rpcs: Any,
        ) -> grpc.aio.Channel:
            running = calls or RunningCalls(1000)
            interceptor = CallInterceptor(
                metrics,
                running,
                receiving or Receiving(seconds=30, most_calls=1000, most_bytes=1 << 30),
                Replying(most_bytes=1 << 30),
                max_reply_bytes=max_reply_bytes,
                sample_rate=sample_rate,
            )
            server = grpc.aio.server(interceptors=[interceptor], options=[("grpc.so_reuseport", 0)])
            handlers = {
                name: rpc if isinstance(rpc, grpc.RpcMethodHandler) else grpc.unary_unary_rpc_method_handler(rpc)
                for name, rpc in rpcs.items()
            }
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
            return await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=client_options))

        yield start_server


@pytest.fixture
def parts() -> Parts:
    return Parts()
