"""Log lines as they arrive in the stream, and what happens when the stream does not keep up."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit import request_context
from service_kit.log_formats import JsonLines, TextLines
from service_kit.log_writing import MAX_WAITING_LINES
from service_kit.logs import CACHE_STATS, configure_logging, topic
from service_kit.sections import LoggingSection

log = logging.getLogger("lipsync.test.lines")
WORK = topic("work_times")
ALL_WAYS = [{}, {"auto_flush": False}, {"buffered_logging": False}]


class OwnLogging(LoggingSection):
    log_work_times: bool = False


class Stream(io.StringIO):
    """Tells when something was written, and holds writers up while `gate` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.written = threading.Event()
        self.writers: set[int] = set()

    def write(self, text: str) -> int:
        self.reached.set()
        self.gate.wait(60)
        self.writers.add(threading.get_ident())
        count = super().write(text)
        self.written.set()
        return count


@pytest.fixture
def stream() -> Iterator[Stream]:
    stream = Stream()
    yield stream
    stream.gate.set()


def logged(stream: Stream) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("way", ALL_WAYS, ids=["auto-flush", "interval", "unbuffered"])
def test_json_lines_carry_fields_and_who_was_served(stream: Stream, way: dict[str, Any]) -> None:
    with configure_logging(LoggingSection(format="json", **way), "inference", stream=stream):
        token = request_context.request_id.set("req-1")
        log.info("loaded %s", "alice", extra={"frames": 523, "ms": 1.23456789, "bad": float("nan"), "path": object})
        request_context.request_id.reset(token)
        log.warning("no request")
    first, second = logged(stream)
    assert first["message"] == "loaded alice"
    assert (first["level"], first["service"], first["logger"]) == ("info", "inference", "lipsync.test.lines")
    assert (first["frames"], first["ms"], first["bad"], first["request_id"]) == (523, 1.234568, "nan", "req-1")
    assert first["time"].endswith("Z")
    assert "request_id" not in second


@pytest.mark.parametrize("way", ALL_WAYS, ids=["auto-flush", "interval", "unbuffered"])
def test_nothing_that_waits_is_lost_at_the_end_and_the_order_is_kept(stream: Stream, way: dict[str, Any]) -> None:
    with configure_logging(LoggingSection(format="json", flush_interval_ms=60_000, **way), "s", stream=stream):
        for number in range(2000):
            log.info("%d", number)
    assert [line["message"] for line in logged(stream)] == [str(number) for number in range(2000)]


def test_what_was_configured_before_is_in_force_again(stream: Stream) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level, CACHE_STATS.level
    with configure_logging(LoggingSection(level="error"), "s", stream=stream):
        log.warning("not severe enough")
    assert (root.handlers[:], root.level, CACHE_STATS.level) == before
    assert stream.getvalue() == ""


def test_buffered_lines_are_formatted_and_written_by_another_thread(stream: Stream) -> None:
    formatted_by: list[int] = []

    class Argument:
        def __str__(self) -> str:
            formatted_by.append(threading.get_ident())
            return "x"

    with configure_logging(LoggingSection(), "s", stream=stream):
        log.info("field", extra={"argument": Argument()})
    assert formatted_by == [*stream.writers]
    assert threading.get_ident() not in stream.writers


def test_unbuffered_lines_are_there_when_the_call_returns(stream: Stream) -> None:
    with configure_logging(LoggingSection(buffered_logging=False), "s", stream=stream):
        log.info("before the crash")
        assert "before the crash" in stream.getvalue()


def test_without_auto_flush_info_waits_and_a_warning_takes_all_along(stream: Stream) -> None:
    with configure_logging(LoggingSection(auto_flush=False, flush_interval_ms=60_000), "s", stream=stream):
        log.info("first")
        log.info("second")
        assert not stream.written.wait(0.1)
        log.warning("third")
        assert stream.written.wait(30)
        assert [line.rsplit(" ", 1)[1] for line in stream.getvalue().splitlines()] == ["first", "second", "third"]


def test_without_auto_flush_the_interval_ends_the_waiting(stream: Stream) -> None:
    with configure_logging(LoggingSection(auto_flush=False, flush_interval_ms=10), "s", stream=stream):
        log.info("soon")
        assert stream.written.wait(30)


def test_a_stuck_stream_holds_nobody_up_and_what_is_dropped_is_counted(stream: Stream) -> None:
    stream.gate.clear()
    with configure_logging(LoggingSection(format="json"), "s", stream=stream):
        log.info("first")
        assert stream.reached.wait(30)  # from now on nothing is taken
        for number in range(MAX_WAITING_LINES + 5000):
            log.info("%d", number)
        stream.gate.set()  # the calls above came back while it was closed
        until_s = time.monotonic() + 60
        while "dropped" not in stream.getvalue():  # it is the last to be told
            assert time.monotonic() < until_s
            time.sleep(0.01)
    messages = [line["message"] for line in logged(stream)]
    [dropped] = [message for message in messages if "dropped" in message]
    arrived = [int(message) for message in messages if message.isdigit()]
    assert int(dropped.split()[0]) == MAX_WAITING_LINES + 5000 - len(arrived)
    assert arrived == list(range(len(arrived)))


@pytest.mark.parametrize("way", ALL_WAYS, ids=["auto-flush", "interval", "unbuffered"])
def test_a_stream_that_is_gone_breaks_nothing(way: dict[str, Any]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with configure_logging(LoggingSection(**way), "s", stream=(broken := os.fdopen(writer, "w", buffering=1))):
        log.warning("nobody reads this")
    with pytest.raises(BrokenPipeError):
        broken.close()


@pytest.mark.parametrize("way", ALL_WAYS, ids=["auto-flush", "interval", "unbuffered"])
def test_a_line_that_cannot_be_made_costs_only_itself(stream: Stream, way: dict[str, Any]) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

        __repr__ = __str__

    with configure_logging(LoggingSection(**way), "s", stream=stream):
        log.info("%s", Broken())
        log.info("field", extra={"broken": Broken()})
        log.info("wrong %d %d", 1)  # noqa: PLE1206 - the mistake is the point
        log.info("last")
    assert len([line for line in stream.getvalue().splitlines() if line.endswith(" last")]) == 1


def test_switches_and_levels(stream: Stream) -> None:
    topics = {"log_work_times": WORK, "log_cache_stats": CACHE_STATS}
    for switch, each_topic in topics.items():
        with configure_logging(OwnLogging.model_validate({switch: True}), "s", stream=stream):
            assert {name for name, each in topics.items() if each.isEnabledFor(logging.INFO)} == {switch}
            each_topic.info("from %s", switch)
        assert f"from {switch}" in stream.getvalue()
    with configure_logging(LoggingSection(level="debug"), "s", stream=stream):
        log.debug("in detail")
        logging.getLogger("aiortc.rtcpeerconnection").debug("with a password")
    assert "in detail" in stream.getvalue()
    assert "password" not in stream.getvalue()


def test_the_steps_of_viewers_connections_are_details(stream: Stream) -> None:
    for level, is_told in (("info", False), ("debug", True)):
        with configure_logging(LoggingSection.model_validate({"level": level}), "s", stream=stream):
            logging.getLogger("aioice.ice").info("one step")
        assert ("one step" in stream.getvalue()) is is_told


def test_exceptions_and_warnings_of_python_are_logged(stream: Stream) -> None:
    with configure_logging(LoggingSection(format="json"), "s", stream=stream):
        try:
            raise KeyError("cause")
        except KeyError:
            log.exception("failed")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("deprecated thing", stacklevel=1)
    failed, warned = logged(stream)
    assert "KeyError: 'cause'" in failed["exception"]
    assert "deprecated thing" in warned["message"]


def line_record(message: str, **fields: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelname": "INFO", **fields})


@given(st.text(), st.text())
def test_no_callers_text_makes_a_second_line_or_breaks_the_json(message: str, field: str) -> None:
    record = line_record(message, field=field, request_id="r")
    text = TextLines("s").format(record)
    assert text.splitlines() == [text]
    assert text.isprintable() or not any(ord(character) < 32 or ord(character) == 127 for character in text)
    line = json.loads(JsonLines("s").format(record))
    assert (line["message"], line["field"], line["request_id"]) == (message, field, "r")
    assert "\n" not in JsonLines("s").format(record)
