"""A live session as a client made from the contract alone sees it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

CALL_S = 120
FAST = pb.AS_FAST_AS_POSSIBLE


@dataclass
class Talk:
    """One session: send what you like, and look at what came. Use it as a context; leaving it cancels what still runs."""

    stub: CompositingServiceStub
    config: pb.SessionConfig | None
    metadata: tuple[tuple[str, str], ...] = ()
    timeout_s: float = CALL_S
    events: list[pb.SessionEvent] = field(default_factory=list)
    frames: list[pb.SessionFrame] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    error: grpc.RpcError | None = None
    _requests: queue.SimpleQueue[pb.SessionRequest | None] = field(default_factory=queue.SimpleQueue)
    _arrived: threading.Condition = field(default_factory=threading.Condition)
    _over: bool = False
    _reading: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        if self.config is not None:
            self.send(config=self.config)
        self._reading.set()
        self._call: Any = self.stub.StreamComposite(
            iter(self._requests.get, None), timeout=self.timeout_s, metadata=self.metadata
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._requests.put(None)
        self._reading.set()
        self._call.cancel()
        self._reader.join(CALL_S)

    def send(self, **message: Any) -> None:
        self._requests.put(pb.SessionRequest(**message))

    def say(self, data: bytes, *, piece: int = 6400, end: bool = True) -> None:
        """Sends sound in pieces of so many bytes."""
        for first in range(0, len(data), piece):
            self.send(audio=pb.SessionAudio(data=data[first : first + piece]))
        if end:
            self.send(end_of_segment=pb.EndOfSegment())

    def close(self) -> None:
        """Half-closes."""
        self._requests.put(None)

    def pause_reading(self) -> None:
        self._reading.clear()

    def go_on_reading(self) -> None:
        self._reading.set()

    def wait(self, true: Callable[[], Any], *, within_s: float = CALL_S) -> None:
        """Waits until it is true of what came, or the call is over."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: true() or self._over, within_s), "it did not come"
        assert true(), f"the call ended before: {self.error}"

    def end(self) -> Self:
        """Half-closes, and waits for the end of the call, which must be a good one."""
        self.close()
        self.wait(lambda: self._over)
        assert self.error is None, self.error
        return self

    def failure(self) -> grpc.RpcError:
        """Waits for the end of the call, which must be a failure."""
        self.wait(lambda: self._over)
        assert self.error is not None
        return self.error

    def of(self, kind: str) -> list[Any]:
        """The events of a kind."""
        return [getattr(event, kind) for event in list(self.events) if event.WhichOneof("event") == kind]

    @property
    def speech(self) -> list[pb.SessionFrame]:
        """The frames of segments."""
        return [frame for frame in list(self.frames) if frame.audio_us >= 0]

    def _read(self) -> None:
        try:
            for event in self._call:
                self._reading.wait()
                with self._arrived:
                    self.events.append(event)
                    self.frames += event.frames.frames
                    self.times += [time.monotonic()] * len(event.frames.frames)
                    self._arrived.notify_all()
        except grpc.RpcError as error:
            self.error = error
        finally:
            with self._arrived:
                self._over = True
                self._arrived.notify_all()


def at_once(one: Callable[..., None], cases: Sequence[tuple[Any, ...]]) -> None:
    """Runs several cases of a test of sessions, which wait most of the time, beside one another. Raises what the first raised."""
    with ThreadPoolExecutor(len(cases)) as pool:
        for case in [pool.submit(one, *each) for each in cases]:
            case.result()


def pieces_of(data: bytes, sizes: Iterator[int], sample_bytes: int) -> Iterator[bytes]:
    """Cuts sound into pieces of so many samples."""
    first = 0
    while first < len(data):
        size = next(sizes) * sample_bytes
        yield data[first : first + size]
        first += size


def pcm(samples: np.ndarray, encoding: int) -> bytes:
    """Encodes samples in [-1, 1]."""
    if encoding == pb.PCM_INT16:
        return (samples * 32767).astype("<i2").tobytes()
    return samples.astype("<f4").tobytes()


def noise(seconds: float, seed: int = 0) -> bytes:
    """Sound of 16 kHz in float32."""
    return pcm(np.random.default_rng(seed).standard_normal(int(16_000 * seconds)) * 0.1, pb.PCM_FLOAT32)


def config(**more: Any) -> pb.SessionConfig:
    """A session with "small", but for what is said otherwise."""
    return pb.SessionConfig(**{"model_id": "small", **more})
