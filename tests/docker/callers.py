"""Callers of the API: one call, and many under load."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from lipsync_client import Client, LipsyncError
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from .stack import Stack

CALL_S = 60
FRAMES = 2
SAMPLES_A_FRAME = 640
CALLERS = 4

# What one caller does again and again; an exception is a call that was lost.
Ask = Callable[[], None]


def sound(frames: int, *, seed: int = 1) -> np.ndarray:
    """Noise, float32 at 16 kHz."""
    return np.random.default_rng(seed).uniform(-0.3, 0.3, frames * SAMPLES_A_FRAME).astype(np.float32)


def request(avatar: str = "demo", *, frames: int = FRAMES, start: int = 0) -> pb.CompositeBatchRequest:
    """A batch of pictures."""
    audio = sound(frames, seed=start + 1).astype("<f4").tobytes()
    return pb.CompositeBatchRequest(model_id=avatar, raw_audio=audio, batch_size=frames, start_frame_idx=start)


@contextmanager
def plain_channel(
    address: str, credentials: grpc.ChannelCredentials | None = None, *, key: str = "", **options: str
) -> Iterator[grpc.Channel]:
    """Makes a channel without any of our advice: no retries, not even gRPC's own transparent ones. `key` is an API key."""
    settings = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]
    settings += [(f"grpc.{name}", value) for name, value in options.items()]
    make = grpc.secure_channel if credentials else grpc.insecure_channel
    with make(address, *([credentials] if credentials else []), options=settings) as channel:
        yield grpc.intercept_channel(channel, _Keyed(key)) if key else channel


class _Keyed(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # the stubs know no base
    """Sends an API key with each call."""

    def __init__(self, key: str) -> None:
        self._metadata = (("x-api-key", key),)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), request)


@contextmanager
def plain_caller(stack: Stack) -> Iterator[Ask]:
    """Asks without retries."""
    with plain_channel(stack.address, key=stack.key) as channel:
        stub, wanted = CompositingServiceStub(channel), request()

        def ask() -> None:
            reply = stub.InferBatchComposite(wanted, timeout=CALL_S)
            assert len(reply.composited_frames) == FRAMES

        yield ask


@contextmanager
def advised_caller(stack: Stack) -> Iterator[Ask]:
    """Asks with our client, which retries as documented."""
    with Client(stack.address, timeout=CALL_S, api_key=stack.key) as client:
        audio = sound(FRAMES)

        def ask() -> None:
            assert len(client.composite("demo", audio, batch_size=FRAMES).frames) == FRAMES

        yield ask


@dataclass
class Load:
    """Outcomes of the calls so far."""

    done: int = 0
    lost: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, calls: int) -> None:
        """Until so many more have ended, one way or the other."""
        with self._news:
            wanted = self.done + len(self.lost) + calls
            assert self._news.wait_for(lambda: self.done + len(self.lost) >= wanted, timeout=CALL_S * 2)

    def count(self, error: str | None) -> None:
        """One more call has ended."""
        with self._news:
            if error is None:
                self.done += 1
            else:
                self.lost.append(error)
            self._news.notify_all()


@contextmanager
def load(caller: Callable[[Stack], Iterator[Ask]], stack: Stack, *, callers: int = CALLERS) -> Iterator[Load]:
    """Callers with a connection each, who ask without a pause until the block is left."""
    seen, enough = Load(), threading.Event()

    def keep_asking() -> None:
        with caller(stack) as ask:
            for _ in itertools.takewhile(lambda _: not enough.is_set(), itertools.count()):
                seen.count(_error(ask))

    with ThreadPoolExecutor(callers) as pool:
        running = [pool.submit(keep_asking) for _ in range(callers)]
        try:
            seen.wait_for(callers)
            yield seen
            seen.wait_for(callers)
        finally:
            enough.set()
        for future in running:
            future.result()


def _error(ask: Ask) -> str | None:
    try:
        ask()
    except (grpc.RpcError, LipsyncError, AssertionError) as error:
        return repr(error)
    return None
