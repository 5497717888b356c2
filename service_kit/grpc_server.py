"""Makes a gRPC server that outlives calls of methods whose name is no text.

The loop of grpc.aio that accepts calls decodes the name of each unknown method as UTF-8. One header with other bytes ends the
loop, and with it the whole service, while the process lives on. Names of known methods are compared by gRPC's core and decoded
from our own bytes. So here the loop sees the known ones alone. Calls of all others are answered beside it, without a look at
their names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc.aio
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # missing in the stubs

log = logging.getLogger(__name__)

_Server: Any = cygrpc.AioServer


def grpc_server(*, interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]], options: Sequence[tuple[str, Any]]) -> Any:
    """Returns a grpc.aio.Server. Handlers must be registered by their methods, as generated code does."""
    server: Any = grpc.aio.server(interceptors=interceptors, options=options)
    server._server = _SteadyServer(server._loop, None, (), tuple(interceptors), tuple(options), None)
    return server


class _SteadyServer(_Server):  # type: ignore[misc]  # a class of Cython
    """Keeps calls of unknown methods from the loop of its base class, which asks it for each next call."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *rest: Any) -> None:
        super().__init__(loop, *rest)
        self._own_loop = loop
        self._nobody: Any = cygrpc._MethodResolver([], {})
        self._answering: set[asyncio.Task[None]] = set()

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """Returns the next call of a known method; of unknown ones only the end of all calls."""
        if method is not None:
            known: asyncio.Future[Any] = super()._make_request_call_future(method)
            return known
        over: asyncio.Future[Any] = self._own_loop.create_future()
        self._take_unknown(over)
        return over

    def _take_unknown(self, over: asyncio.Future[Any]) -> None:
        """Waits for the next call of an unknown method, and answers it."""

        def taken(called: asyncio.Future[Any]) -> None:
            if called.cancelled():
                over.cancel()
            elif error := called.exception():  # as the server stops
                if not over.done():
                    over.set_exception(error)
            else:
                self._refuse(called.result())
                self._take_unknown(over)

        call: asyncio.Future[Any] = super()._make_request_call_future(None)
        over.add_done_callback(lambda _: call.cancel())
        call.add_done_callback(taken)

    def _refuse(self, call: Any) -> None:
        """Answers UNIMPLEMENTED, as gRPC does where nobody knows the method."""
        answer = cygrpc._handle_rpc("", self._nobody, (), call, self._own_loop, False)
        task = self._own_loop.create_task(cygrpc._schedule_rpc_coro(answer, call, self._own_loop, ""))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
