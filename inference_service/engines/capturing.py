"""Keeps all other work with GPUs away while a CUDA graph is captured.

ONNX Runtime captures in CUDA's global mode: a call from any other thread meanwhile that allocates, or copies and waits, fails,
and the capture with it, which may leave the process without its GPU (cudaStreamBeginCapture in CUDA's manual, and ONNX Runtime's
cuda_graph.cc). What closes a session is not held back, as Python may do that in the middle of anything: should it spoil a
capture, that avatar's load fails, and the next request loads it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CaptureGate:
    """Any number of calls at the same time, or one capture. A capture that waits holds new calls back. Thread-safe.

    A call must not be made within another one of the same thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls = 0
        self._captures = 0  # that wait or run
        self._capturing = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """Surrounds work with a GPU."""
        with self._changed:
            self._changed.wait_for(lambda: not self._captures)
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Surrounds a run that captures a graph."""
        with self._changed:
            self._captures += 1
            self._changed.wait_for(lambda: not (self._calls or self._capturing))
            self._capturing = True
        try:
            yield
        finally:
            with self._changed:
                self._capturing = False
                self._captures -= 1
                self._changed.notify_all()


GATE = CaptureGate()
"""The lock of the process: a capture on one GPU disturbs calls to others too."""
