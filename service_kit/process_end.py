"""Ends the process in time, also when the event loop, the closing of a part or a thread hangs.

A thread receives the signals: asyncio would handle them on the event loop, which may hang.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK_AGAIN = b"\0"  # no signal has this number

log = logging.getLogger(__name__)


class ProcessEnd:
    """Receives SIGTERM and SIGINT, and ends the process when its time is over.

    It lasts as long as the process, which threads that never return may keep alive.
    """

    exit_code = 1  # of a process that has to be ended

    def __init__(self, logs: Callable[[], AbstractContextManager[None]]) -> None:
        """`logs` configures logging for the last line: by then the process may have ended its own logging."""
        self._logs = logs
        self._ends_at_s: float | None = None
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)

    def listen(self, heard: Callable[[], None]) -> None:
        """Calls `heard` for each signal, in a thread of its own. Call `listen` in the main thread."""
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(heard,), name="process-end", daemon=True).start()

    def within(self, seconds: float) -> None:
        """Limits the rest of the process's life to `seconds`. Never extends it. From any thread."""
        ends_at_s = time.monotonic() + seconds
        if self._ends_at_s is None or ends_at_s < self._ends_at_s:
            self._ends_at_s = ends_at_s
            self._writing.send(_LOOK_AGAIN)

    def _watch(self, heard: Callable[[], None]) -> None:
        while True:
            left_s = None if self._ends_at_s is None else max(0.0, self._ends_at_s - time.monotonic())
            if not select.select([self._reading], [], [], left_s)[0]:
                self._end()
            for number in self._reading.recv(64):
                if number in STOP_SIGNALS:
                    heard()

    def _end(self) -> None:
        with self._logs():
            log.error("ended by force: not everything stopped in time", extra={"threads": _running_threads()})
        os._exit(self.exit_code)


def _running_threads() -> str:
    """Names the threads that keep the process alive, each with its place in the code."""
    frames = sys._current_frames()
    places = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame and not thread.daemon:
            places.append(f"{thread.name} in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})")
    return ", ".join(sorted(places))
