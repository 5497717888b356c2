"""Two processes that pass on messages of the services' sizes by gRPC and do nothing else: `python -m benchmarks.bare_grpc`.

They show what gRPC itself takes of a call, with as many hops, replies and bytes. They end when their standard input closes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from lipsync_cli.processes import ServiceProcess, end_with_stdin

INNER, OUTER = "inner", "outer"
_SERVICE, _METHOD = "bare", "Call"
_PATH = f"/{_SERVICE}/{_METHOD}"
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@dataclass(frozen=True)
class BareServices:
    """Both processes, ready; callers call the outer one."""

    address: str
    inner: ServiceProcess
    outer: ServiceProcess

    def calls(self) -> BareCalls:
        """Opens a caller's connection."""
        return BareCalls(self.address)


class BareCalls:
    """A connection of one caller."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=_UNLIMITED)
        self._call = self._channel.unary_unary(_PATH, None, None)

    def __enter__(self) -> BareCalls:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, request: bytes) -> bytes:
        """Sends a request on to the inner process, and returns the outer one's reply."""
        reply: bytes = self._call(request)
        return reply


@contextmanager
def bare_services(folder: Path, *, parts: Sequence[int], reply: int) -> Iterator[BareServices]:
    """Starts both: the inner one streams messages of `parts` bytes, for which the outer one replies with one of `reply` bytes.

    Their logs are in `folder`. Raises CliError when one does not start.
    """

    def command(name: str, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "benchmarks.bare_grpc", name, *map(str, arguments)]

    with ExitStack() as stack:
        inner = stack.enter_context(ServiceProcess(INNER, command(INNER, *parts), log=folder / "inner.log"))
        outer_command = command(OUTER, inner.wait_ready(), reply)
        outer = stack.enter_context(ServiceProcess(OUTER, outer_command, log=folder / "outer.log"))
        yield BareServices(outer.wait_ready(), inner, outer)


async def _serve_inner(parts: Sequence[int]) -> None:
    messages = [bytes(size) for size in parts]

    async def answer(request: bytes, context: Any) -> None:
        for message in messages:
            await context.write(message)

    handler: Any = answer
    await _serve(INNER, grpc.unary_stream_rpc_method_handler(handler))


async def _serve_outer(inner: str, reply: int) -> None:
    message = bytes(reply)
    async with grpc.aio.insecure_channel(inner, options=_UNLIMITED) as channel:
        ask: Any = channel.unary_stream(_PATH, None, None)

        async def answer(request: bytes, context: Any) -> bytes:
            call = ask(request)
            while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]  # missing in the stubs
                pass
            return message

        handler: Any = answer
        await _serve(OUTER, grpc.unary_unary_rpc_method_handler(handler))


async def _serve(name: str, handler: grpc.RpcMethodHandler[bytes, bytes]) -> None:
    server = grpc.aio.server(options=_UNLIMITED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    end_with_stdin()
    print(f"ready {name} 127.0.0.1:{port} metrics off", flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Serves until the standard input closes."""
    name, *arguments = sys.argv[1:]
    if name == INNER:
        asyncio.run(_serve_inner([int(size) for size in arguments]))
    else:
        asyncio.run(_serve_outer(arguments[0], int(arguments[1])))


if __name__ == "__main__":
    main()
