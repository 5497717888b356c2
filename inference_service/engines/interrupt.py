"""Cuts short what a thread is at: a run or a load that takes too long, or that nobody waits for any more.

Python ends no thread from outside, and an avatar's network is a program that its author wrote. ONNX Runtime can be told to end a
run between two operators, and a load between its steps; so each such step says how it is ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock


class Interrupted(RuntimeError):
    """The work was cut short before it began another step."""


class Interrupt:
    """Belongs to one piece of work, which a thread does; `set` is called from another."""

    def __init__(self) -> None:
        self.step_name = ""  # of the step that began last
        self.steps = 0  # begun so far
        self._lock = Lock()
        self._end: Callable[[], None] | None = None
        self._is_set = False

    def set(self) -> None:
        """Ends the step under way and lets none begin."""
        with self._lock:
            self._is_set = True
            if self._end:
                self._end()

    @contextmanager
    def step(self, name: str, end: Callable[[], None]) -> Iterator[None]:
        """Surrounds a step that `end` makes return early, called from any thread. Raises Interrupted instead of beginning it."""
        with self._lock:
            if self._is_set:
                raise Interrupted(name)
            self.step_name, self._end = name, end
            self.steps += 1
        try:
            yield
        finally:
            with self._lock:
                self._end = None
                self.steps += 1


CURRENT: ContextVar[Interrupt | None] = ContextVar("interrupt", default=None)


@contextmanager
def interruptible(name: str, end: Callable[[], None]) -> Iterator[None]:
    """Surrounds a step of this thread's work, in programs without limits too. Raises Interrupted."""
    current = CURRENT.get()
    if current is None:
        yield
        return
    with current.step(name, end):
        yield
