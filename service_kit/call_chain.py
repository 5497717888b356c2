"""One coroutine around each gRPC call, whichever of the four kinds it is of, built from layers.

A handler that streams its reply is an asynchronous generator. It is driven here, once, by a coroutine that writes each message
itself. So layers add nothing to a message, and the generator is closed, its `finally` run, before the call ends, also when the
call is cancelled. Handlers leave initial metadata to the kit.

The codecs are the innermost layer, inside of those that turn exceptions into statuses: gRPC itself would answer a message that
cannot be decoded or encoded with UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import grpc
import grpc.aio

from service_kit.errors import InvalidRequest, ResourceExhausted, Violation
from service_kit.request_context import early_headers

Proceed = Callable[[], Awaitable[Any]]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]
Handler = Any  # grpc.RpcMethodHandler, whose stub lacks its attributes
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs alone

_OF_THE_KIT = ("grpc.health.", "grpc.reflection.")
_KINDS = {
    (False, False): ("unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("server_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("client_stream", grpc.stream_unary_rpc_method_handler),
    (True, True): ("bidi_stream", grpc.stream_stream_rpc_method_handler),
}  # by: requests are a stream, replies are a stream


@dataclass(frozen=True, slots=True)
class Method:
    """Names an RPC."""

    path: str  # "/package.Service/Method"
    service: str  # "package.Service"
    name: str  # "Method"
    kind: str  # "unary", "server_stream", "client_stream" or "bidi_stream"

    @property
    def is_infrastructure(self) -> bool:
        """True for health and reflection: no work of the service, and streams of it may stay open without end."""
        return self.service.startswith(_OF_THE_KIT)

    @classmethod
    def of(cls, path: str, handler: Handler) -> Method:
        """Takes apart what gRPC knows about an RPC."""
        service, _, name = path.lstrip("/").rpartition("/")
        return cls(path, service, name, _KINDS[handler.request_streaming, handler.response_streaming][0])


@dataclass(frozen=True, slots=True)
class Call:
    """Is one call under way, as layers see it."""

    method: Method
    context: Context


class Layer(Protocol):
    """Surrounds every call."""

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Awaits `proceed()` once and returns its result, or raises instead."""


class CallChain(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Runs every call inside `layers`, the first one outermost. Unknown methods are left to gRPC, which answers UNIMPLEMENTED.

    A unary reply over `max_reply_bytes` raises ResourceExhausted. Streams may write bytes in place of a message: one that
    the handler encoded itself.
    """

    def __init__(self, layers: Sequence[Layer], *, max_reply_bytes: int | None = None) -> None:
        self._layers = tuple(layers)
        self._max_reply_bytes = max_reply_bytes
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}  # by path; only known methods, so bounded

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Is called by gRPC for each call."""
        handler: Handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path = str(handler_call_details.method)
        inner, outer = self._wrapped.get(path, (None, None))
        if inner is not handler:
            outer = self._surrounded(Method.of(path, handler), handler)
            self._wrapped[path] = (handler, outer)
        return outer

    def _surrounded(self, method: Method, handler: Handler) -> Handler:
        """Returns a handler of the same kind with all layers around it and its codecs inside."""
        behavior = _as_coroutine(handler)
        decode, encode = handler.request_deserializer, handler.response_serializer

        async def coded(request: Any, context: Context) -> Any:
            if not handler.request_streaming:
                request = _decoded(decode, request)
            reply = await behavior(request, context)
            return reply if handler.response_streaming else self._encoded(encode, reply)

        async def run(request: Any, context: Context) -> Any:
            call = Call(method, context)
            proceed: Proceed = partial(coded, request, context)
            for layer in reversed(self._layers):
                proceed = partial(layer.around, call, proceed)
            return await proceed()

        build: Any = _KINDS[handler.request_streaming, handler.response_streaming][1]
        return build(
            run,
            partial(_decoded, decode) if handler.request_streaming else None,
            partial(_message_bytes, encode) if handler.response_streaming else None,
        )

    def _encoded(self, encode: Any, reply: Any) -> bytes:
        data: bytes = encode(reply) if encode is not None else reply
        if self._max_reply_bytes is not None and len(data) > self._max_reply_bytes:
            raise ResourceExhausted(
                f"the reply would have {len(data)} bytes, over the limit of {self._max_reply_bytes}; ask for less in one request"
            )
        return data


def _as_coroutine(handler: Handler) -> Callable[[Any, Context], Awaitable[Any]]:
    """Returns the handler's behaviour as one coroutine that does the whole call and writes a generator's messages."""
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


def _decoded(decode: Any, data: bytes) -> Any:
    if decode is None:
        return data
    try:
        return decode(data)
    except Exception:
        raise InvalidRequest([Violation("", "the message cannot be decoded: it is not of this RPC's request type")]) from None


def _message_bytes(encode: Any, reply: Any) -> bytes:
    data: bytes = reply if encode is None or isinstance(reply, bytes) else encode(reply)
    return data
