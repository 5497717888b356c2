"""Carries log lines from the code that logs to the stream: a bounded queue, and one thread that formats and writes."""

from __future__ import annotations

import logging
import queue
from contextlib import suppress
from logging.handlers import MemoryHandler, QueueHandler, QueueListener
from time import monotonic
from typing import Any, TextIO

MAX_WAITING_LINES = 10_000
# Without auto_flush, as many lines are written together at most, however long they may wait.
MAX_BLOCK_LINES = 500
# At the end: longer than a healthy stderr needs, shorter than a supervisor waits.
LAST_WRITE_S = 2.0


class StreamWriter(logging.StreamHandler[TextIO]):
    """Writes each line at once. Ignores a stream that cannot be written to."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, or the reason why there is none: code of the arguments may raise anything."""
        try:
            return super().format(record)
        except Exception as error:
            return f"a line of {record.name} could not be formatted: {type(error).__name__}"

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drops the line."""


class DroppingQueueHandler(QueueHandler):
    """Puts lines into a bounded queue. Never blocks: drops lines that do not fit, and counts them."""

    queue: queue.Queue[logging.LogRecord | None]

    def __init__(self) -> None:
        super().__init__(queue.Queue(MAX_WAITING_LINES))
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Puts the arguments, which may change, into the message. The thread does all other formatting."""
        if record.args:
            record.msg, record.args = record.getMessage(), None
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Counts a line that cannot be made or does not fit."""
        self.dropped += 1


class WritingThread(QueueListener):
    """Takes lines from its `handler` to a writer: at once, or, without `auto_flush`, each `interval_s` and with each warning."""

    def __init__(self, writer: logging.Handler, *, auto_flush: bool, interval_s: float) -> None:
        self.handler = DroppingQueueHandler()
        self._block = MemoryHandler(1 if auto_flush else MAX_BLOCK_LINES, logging.WARNING, writer)
        super().__init__(self.handler.queue, self._block)
        self._interval_s = interval_s
        self._due_s = monotonic() + interval_s
        self._reported = 0

    def dequeue(self, block: bool) -> Any:
        """Returns the next line, None after the last one. Writes the lines that are due while it waits."""
        while True:
            try:
                record = self.handler.queue.get(timeout=max(0.0, self._due_s - monotonic()))
            except queue.Empty:
                self._due_s = monotonic() + self._interval_s
                self._write_all()
            else:
                if record is None:
                    self._write_all()
                return record

    def stop(self) -> None:
        """Writes all waiting lines and ends the thread. A stuck stream delays the process for seconds only."""
        with suppress(queue.Full):
            self.handler.queue.put(None, timeout=LAST_WRITE_S)
            if self._thread:
                self._thread.join(LAST_WRITE_S)

    def _write_all(self) -> None:
        """Writes the waiting lines, and the number of lines that were dropped since the last time."""
        if dropped := self.handler.dropped - self._reported:
            self._reported += dropped
            fields = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
            self._block.handle(logging.makeLogRecord({**fields, "msg": f"{dropped} log lines were dropped"}))
        self._block.flush()
