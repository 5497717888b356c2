"""The plumbing that interceptors share: one coroutine around each call, whichever of gRPC's four kinds it is of.

A handler that streams its reply is an asynchronous generator. It is driven here, once, by a coroutine that writes each message
itself. So interceptors add nothing to a message, and the generator is closed, its `finally` run, before the call ends, also when
the call is cancelled. Handlers leave initial metadata to the kit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio

from service_kit.request_context import early_headers

Proceed = Callable[[], Awaitable[Any]]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]
Handler = Any  # grpc.RpcMethodHandler, whose stub lacks its attributes
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs alone

_OF_THE_KIT = ("grpc.health.", "grpc.reflection.")


@dataclass(frozen=True, slots=True)
class Method:
    """Which RPC a call is of."""

    path: str  # "/package.Service/Method"
    service: str  # "package.Service"
    name: str  # "Method"
    kind: str  # "unary", "server_stream", "client_stream" or "bidi_stream"

    @property
    def is_infrastructure(self) -> bool:
        """Health and reflection: no work of the service, and streams of it may stay open for ever."""
        return self.service.startswith(_OF_THE_KIT)

    @classmethod
    def of(cls, path: str, handler: Handler) -> Method:
        """Takes apart what gRPC knows about an RPC."""
        service, _, name = path.lstrip("/").rpartition("/")
        kinds = {
            (False, False): "unary",
            (False, True): "server_stream",
            (True, False): "client_stream",
            (True, True): "bidi_stream",
        }
        return cls(path, service, name, kinds[handler.request_streaming, handler.response_streaming])


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Runs `around` around every call. Unknown methods are left to gRPC, which answers UNIMPLEMENTED."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}  # by path; only known methods, so bounded

    @abstractmethod
    async def around(self, method: Method, context: Context, proceed: Proceed) -> Any:
        """Awaits `proceed()` once, and returns what it returns."""

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Called by gRPC for each call."""
        handler: Handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path = str(handler_call_details.method)
        inner, outer = self._wrapped.get(path, (None, None))
        if inner is not handler:
            outer = self.wrapped(Method.of(path, handler), handler)
            self._wrapped[path] = (handler, outer)
        return outer

    def wrapped(self, method: Method, handler: Handler) -> Handler:
        """`handler` with `around` around it."""
        behavior = as_coroutine(handler)

        async def call(request: Any, context: Context) -> Any:
            return await self.around(method, context, partial(behavior, request, context))

        return rebuilt(handler, call, handler.request_deserializer, handler.response_serializer)


def rebuilt(handler: Handler, behavior: Any, request_deserializer: Any, response_serializer: Any) -> Handler:
    """A handler of the same kind with other parts."""
    build: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return build(behavior, request_deserializer, response_serializer)


def as_coroutine(handler: Handler) -> Callable[[Any, Context], Awaitable[Any]]:
    """The handler's behaviour as one coroutine that does the whole call; a generator's messages are written from within."""
    behavior = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

    async def stream(request: Any, context: Context) -> None:
        replies = behavior(request, context)
        if not hasattr(replies, "__aiter__"):  # a coroutine that writes for itself
            await replies
            return
        headers = early_headers.get()
        async with aclosing(replies):
            async for reply in replies:
                if headers:
                    await context.send_initial_metadata(headers)
                    headers = ()
                await context.write(reply)

    return stream if handler.response_streaming else behavior
