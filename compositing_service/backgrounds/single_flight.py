"""Runs a function once for many callers at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SingleFlight(Generic[Key, Value]):
    """Thread-safe. A caller of a key that is being made waits for that result, or for that error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Key, Future[Value]] = {}

    def run(self, key: Key, make: Callable[[], Value]) -> Value:
        """Returns or raises the outcome of `make`, called in this thread or already running in another.

        Nothing is remembered: `make` should first look for a value made since the caller missed it.
        """
        mine: Future[Value] = Future()
        with self._lock:
            flight = self._flights.setdefault(key, mine)
        if flight is mine:
            try:
                mine.set_result(make())
            except BaseException as error:
                mine.set_exception(error)
            finally:
                with self._lock:
                    del self._flights[key]
        return flight.result()
