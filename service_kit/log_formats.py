"""Formats log lines: as JSON for machines, or as aligned text for people."""

from __future__ import annotations

import json
import logging
import math
import re
from datetime import UTC, datetime
from typing import Any

_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Attributes of the record and their fields, in the order in which they end a line.
_REQUEST_FIELDS = {"request_id": "request_id", "session_id": "session_id", "avatar_id": "avatar", "traceparent": "traceparent"}
# Messages hold text of callers, which must not begin new lines or control a terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Lines(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def _trace(self, record: logging.LogRecord) -> str:
        trace = self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        return "\n".join(filter(None, (trace, stack)))


class JsonLines(_Lines):
    """One JSON object a line: time, level, service, logger, message, the line's own fields, then the ids of the request."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line without its end."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, _json_value(value))
        if trace := self._trace(record):
            line["exception"] = trace
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(_Lines):
    """Time, level, service and message, then the fields as key=value. A traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line without its end."""
        fields = "".join(f" {name}={_text_value(value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname:<7} {self._service} {_plain(record.getMessage())}{fields}"
        trace = self._trace(record)
        return f"{line}\n{trace}" if trace else line


def _time(record: logging.LogRecord) -> str:
    """Returns UTC with milliseconds."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    given = vars(record)
    fields = {name: value for name, value in given.items() if name not in _OWN_ATTRIBUTES and name not in _REQUEST_FIELDS}
    return fields | {field: given[name] for name, field in _REQUEST_FIELDS.items() if given.get(name)}


def _json_value(value: Any) -> Any:
    """Rounds numbers to microseconds, and writes NaN and infinity, which JSON lacks, as text."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    return value


def _text_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    text = _plain(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


def _plain(text: str) -> str:
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)
