"""A caller who goes on asking while others ask for nonsense, and who must never notice them."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import grpc

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

CALL_S = 60
PAUSE_S = 0.05  # between two calls while nobody waits for one: without it they would take all the cores that they find


class SteadyCaller:
    """Asks for the same frames again and again, on a connection of its own; use it as a context manager."""

    def __init__(self, address: str, request: pb.CompositeBatchRequest) -> None:
        self._request = request
        self._channel = grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)))
        self._call = CompositingServiceStub(self._channel).InferBatchComposite
        self._wanted = list(self._call(request, timeout=CALL_S).composited_frames)
        self._changed = threading.Condition()
        self._begun = self._ended = self._waiting = 0
        self._stopping = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="steady-caller")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._channel.close()

    def wait_for_a_call(self) -> None:
        """Waits until a call that begins now has ended well. Raises what went wrong with any call so far."""
        with self._changed:
            wanted = self._begun + 1
            self._waiting += 1
            self._changed.notify_all()
            there = self._changed.wait_for(lambda: self._ended >= wanted or self._error is not None, CALL_S)
            self._waiting -= 1
        if self._error is not None:
            raise AssertionError("another caller was disturbed") from self._error
        assert there

    def _run(self) -> None:
        while not self._stopping:
            with self._changed:
                self._begun += 1
            try:
                frames = list(self._call(self._request, timeout=CALL_S).composited_frames)
                assert frames == self._wanted
            except BaseException as error:  # for the test's own thread to raise
                self._error = error
            with self._changed:
                self._ended += 1
                self._changed.notify_all()
                if self._error is not None:
                    return
                self._changed.wait_for(lambda: self._waiting or self._stopping, PAUSE_S)
