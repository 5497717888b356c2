"""The way of log lines from the code that logs to the stream: a bounded queue, and one thread that formats and writes."""

from __future__ import annotations

import logging
import queue
from contextlib import suppress
from logging.handlers import MemoryHandler, QueueHandler, QueueListener
from time import monotonic
from typing import Any, TextIO

from service_kit import request_context

MAX_WAITING_LINES = 10_000
# Without auto_flush: written together, however long they may wait.
MAX_BLOCK_LINES = 500
# At the end: longer than a healthy stderr needs, shorter than a supervisor waits.
LAST_WRITE_S = 2.0


def note_request(record: logging.LogRecord) -> bool:
    """Notes in the line who is served: the writing thread has another context. As a filter it lets every line pass."""
    record.request_id = request_context.request_id.get()
    record.session_id = request_context.session_id.get()
    record.avatar_id = request_context.avatar_id.get()
    return True


class StreamWriter(logging.StreamHandler[TextIO]):
    """Writes each line at once. A stream that cannot be written to is no reason to fail."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, or the reason why there is none: an argument's own code may raise anything."""
        try:
            return super().format(record)
        except Exception as error:
            return f"a line of {record.name} could not be formatted: {type(error).__name__}"

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Lets the line go."""


class Entrance(QueueHandler):
    """The handler that log calls run into. Never blocks: lines that do not fit into the queue are counted."""

    queue: queue.Queue[logging.LogRecord | None]

    def __init__(self) -> None:
        super().__init__(queue.Queue(MAX_WAITING_LINES))
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Puts the arguments into the message, as they may change; all other formatting waits for the thread."""
        if record.args:
            record.msg, record.args = record.getMessage(), None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Hands the line to the thread."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A line that cannot be made is lost, and nothing else with it."""
        self.dropped += 1


class WritingThread(QueueListener):
    """Takes lines from its `entrance` to a writer: at once, or, without `auto_flush`, each `interval_s` and with each warning."""

    def __init__(self, writer: logging.Handler, *, auto_flush: bool, interval_s: float) -> None:
        self.entrance = Entrance()
        self._block = MemoryHandler(1 if auto_flush else MAX_BLOCK_LINES, logging.WARNING, writer)
        super().__init__(self.entrance.queue, self._block)
        self._interval_s = interval_s
        self._due_s = monotonic() + interval_s
        self._told_dropped = 0

    def dequeue(self, block: bool) -> Any:
        """The next line, None after the last one; writes the lines that are due while none comes."""
        while True:
            try:
                record = self.entrance.queue.get(timeout=max(0.0, self._due_s - monotonic()))
            except queue.Empty:
                self._write_all()
                self._due_s = monotonic() + self._interval_s
            else:
                if record is None:
                    self._write_all()
                return record

    def stop(self) -> None:
        """Writes everything that waits and ends the thread; a stuck stream holds up the process for seconds only."""
        with suppress(queue.Full):
            self.entrance.queue.put(None, timeout=LAST_WRITE_S)
            if self._thread:
                self._thread.join(LAST_WRITE_S)

    def _write_all(self) -> None:
        """Writes what waits, and how many lines were dropped: once there are fewer again."""
        if dropped := self.entrance.dropped - self._told_dropped:
            self._told_dropped += dropped
            fields = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
            self._block.handle(logging.makeLogRecord({**fields, "msg": f"{dropped} log lines were dropped"}))
        self._block.flush()
