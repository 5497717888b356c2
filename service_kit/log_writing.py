"""How log lines get from the code that logs to the stream: a bounded queue, and one thread that formats and writes."""

from __future__ import annotations

import logging
import queue
import threading
from logging.handlers import QueueHandler
from time import monotonic
from typing import Final, TextIO

from service_kit import request_context

MAX_WAITING_LINES = 10_000
# Written in one go under load; bounds how long a line waits when more and more come.
MAX_BLOCK_LINES = 500
# At the end: longer than a healthy stderr needs, shorter than a supervisor waits.
LAST_WRITE_S = 2.0

_END: Final = None


def note_request(record: logging.LogRecord) -> bool:
    """Notes in the line who is served: the writing thread has another context. As a filter it lets every line pass."""
    record.request_id = request_context.request_id.get()
    record.session_id = request_context.session_id.get()
    record.avatar_id = request_context.avatar_id.get()
    return True


class LineWriter(logging.Handler):
    """Formats lines and writes them to a stream. A stream that cannot be written to is no reason to fail.

    `wait_s`: how long a line may wait for others to be written with it, warnings excepted; None: every line is written at once.
    """

    def __init__(self, stream: TextIO, formatter: logging.Formatter, *, wait_s: float | None) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._wait_s = wait_s
        self._block: list[str] = []
        self._due_s: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Takes one line."""
        try:
            line = self.format(record)
        except Exception as error:  # whatever an argument's own code raises
            line = f"a line of {record.name} could not be formatted: {type(error).__name__}"
        self._block.append(f"{line}\n")
        if self._wait_s is None or len(self._block) >= MAX_BLOCK_LINES:
            self.flush()
            return
        wait_s = 0.0 if record.levelno >= logging.WARNING else self._wait_s
        self._due_s = min(monotonic() + wait_s, self._due_s if self._due_s is not None else float("inf"))

    def seconds_left(self) -> float | None:
        """How long the waiting lines may wait for more; None when none waits."""
        return None if self._due_s is None else max(0.0, self._due_s - monotonic())

    def flush(self) -> None:
        """Writes what waits."""
        text, self._block, self._due_s = "".join(self._block), [], None
        if text:
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                pass


class Entrance(QueueHandler):
    """What log calls run into. Never blocks: what does not fit into the queue is counted."""

    queue: queue.Queue[logging.LogRecord | None]

    def __init__(self) -> None:
        super().__init__(queue.Queue(MAX_WAITING_LINES))
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Puts the arguments into the message, as they may change; all other formatting waits for the thread."""
        note_request(record)
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


class WritingThread(threading.Thread):
    """Takes lines from its `entrance` to a writer until `finish`."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__(name="log-writer", daemon=True)
        self.entrance = Entrance()
        self._writer = writer
        self._told_dropped = 0

    def run(self) -> None:
        """The thread's work."""
        while (record := self._next()) is not _END:
            self._writer.handle(record)
        self._tell_dropped()
        self._writer.flush()

    def finish(self) -> None:
        """Writes everything that waits and ends the thread; a stuck stderr holds up the process for seconds only."""
        try:
            self.entrance.queue.put(_END, timeout=LAST_WRITE_S)
        except queue.Full:
            return
        self.join(LAST_WRITE_S)

    def _next(self) -> logging.LogRecord | None:
        try:
            return self.entrance.queue.get(timeout=self._writer.seconds_left())
        except queue.Empty:
            self._tell_dropped()
            self._writer.flush()
            return self.entrance.queue.get()

    def _tell_dropped(self) -> None:
        """Lines are dropped when there are too many; that they were is told once there are fewer."""
        dropped = self.entrance.dropped
        if dropped > self._told_dropped:
            line = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
            line["msg"] = f"{dropped - self._told_dropped} log lines were dropped"
            self._told_dropped = dropped
            self._writer.handle(logging.makeLogRecord(line))
