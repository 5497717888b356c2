"""Both faces of a session against a server that refuses, breaks and ends streams as scripted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from lipsync_client import Client, Frame, LipsyncError, Resumed, Started
from shared_proto import compositing_pb2 as pb

from .conftest import ScriptedService, serving

Code = grpc.StatusCode


class Streams(ScriptedService):
    """Takes the next script for each stream: events to send, and the status to end with."""

    def __init__(self, *scripts: tuple[list[pb.SessionEvent], Any]) -> None:
        super().__init__()
        self.scripts = deque(scripts)
        self.configs: list[pb.SessionConfig] = []

    def StreamComposite(self, request_iterator, context) -> Iterator[pb.SessionEvent]:
        self.configs.append(next(request_iterator).config)
        self._note("StreamComposite", context)
        events, (code, trailing) = self.scripts.popleft()
        yield from events
        context.set_trailing_metadata(trailing)
        context.abort(code, "scripted")


STARTED = pb.SessionEvent(started=pb.SessionStarted(session_id="talk", width=8, height=6, max_buffered_ms=5000))
END = (Code.CANCELLED, (("x-request-id", "by an operator"),))
GONE = (Code.UNAVAILABLE, ())


def frames(*numbers: int) -> pb.SessionEvent:
    made = [pb.SessionFrame(number=n, position=n + 100, next_position=n + 101, segment=-1, audio_us=-1) for n in numbers]
    return pb.SessionEvent(frames=pb.SessionFrames(frames=made))


def events_until_the_end(face, service: Streams, **options: Any) -> tuple[list[Any], LipsyncError]:
    """The events that a session gives before it raises."""
    events: list[Any] = []
    note = events.append

    def listen(client):
        session = client.session("demo", **options)
        return in_thread(session) if isinstance(client, Client) else in_task(session)

    def in_thread(session):
        try:
            for event in session:
                note(event)
        except LipsyncError as error:
            return error

    async def in_task(session):
        try:
            async for event in session:
                note(event)
        except LipsyncError as error:
            return error

    with serving(service):
        return events, face(service.target, listen)


def test_a_broken_stream_is_followed_by_one_that_goes_on(face) -> None:
    service = Streams(([STARTED, frames(0, 1, 2)], GONE), ([STARTED, frames(2, 3)], GONE), ([STARTED, frames(4)], END))
    events, error = events_until_the_end(face, service, start_frame=100)
    assert isinstance(events[0], Started)
    assert [event.number for event in events if isinstance(event, Frame)] == [0, 1, 2, 3, 4]
    assert [event.next_number for event in events if isinstance(event, Resumed)] == [3, 4]
    assert [(config.start_frame_idx, config.resume.next_number) for config in service.configs] == [(100, 0), (103, 3), (104, 4)]
    assert (error.code, error.request_id, error.from_server) == (Code.CANCELLED, "by an operator", True)


def test_streams_share_the_sessions_id_and_have_requests_of_their_own(face) -> None:
    service = Streams(([STARTED, frames(0)], GONE), ([STARTED, frames(1)], END))

    def named(target, action, **options):
        return face(target, lambda client: action(client.with_metadata(request_id="order", more=(("x-tenant", "t"),))), **options)

    events_until_the_end(named, service)
    first, second = service.metadata
    assert first["x-session-id"] == second["x-session-id"]
    assert (first["x-request-id"], second["x-request-id"]) == ("order", "order/1")
    assert first["x-avatar-id"] == second["x-avatar-id"] == "demo"
    assert first["x-tenant"] == second["x-tenant"] == "t"


def test_a_refusal_with_a_time_is_waited_for(face) -> None:
    full = (Code.RESOURCE_EXHAUSTED, (("grpc-retry-pushback-ms", "50"),))
    service = Streams(([], full), ([], full), ([STARTED, frames(0)], END))
    events, _ = events_until_the_end(face, service)
    assert [type(event) for event in events] == [Started, Frame]
    assert not any(config.HasField("resume") for config in service.configs)


def test_a_refusal_is_raised_at_once_where_the_caller_does_not_wait(face) -> None:
    full = (Code.RESOURCE_EXHAUSTED, (("grpc-retry-pushback-ms", "3600000"),))
    events, error = events_until_the_end(face, Streams(([], full)), admission_timeout=0)
    assert (events, error.code, error.retry_after_ms) == ([], Code.RESOURCE_EXHAUSTED, 3_600_000)


@pytest.mark.parametrize("code", [Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED, Code.INTERNAL])
def test_other_failures_are_raised(face, code) -> None:
    events, error = events_until_the_end(face, Streams(([], (code, ()))))
    assert (events, error.code) == ([], code)


def test_a_server_that_stays_away_is_given_up(face) -> None:
    service = Streams(*[([STARTED, frames(0)], GONE)], *[([], GONE)] * 50)
    _, error = events_until_the_end(face, service, resume_timeout=0.5)
    assert error.code is Code.UNAVAILABLE
    assert 2 <= len(service.configs) < 10


@pytest.mark.parametrize("options", [{"pacing": "quick"}, {"idle": "never"}, {"quality": 101}, {"sample_rate": 0}])
def test_options_that_no_session_has(face, options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        face("127.0.0.1:1", lambda client: client.session("demo", **options))


def test_what_is_pushed_is_checked_before_it_is_sent() -> None:
    service = Streams(([STARTED], END))
    with serving(service), Client(service.target) as client, client.session("demo") as session:
        for wrong in (np.array([np.nan], np.float32), np.zeros((2, 2), np.float32), b"abc"):
            with pytest.raises(ValueError, match="sound"):
                session.push(wrong)
        with pytest.raises(TypeError):
            session.push(np.zeros(3, np.int32))
        session.push(np.zeros(3, np.int16))
        with pytest.raises(TypeError):
            session.push(np.zeros(3, np.float32))
        session.close()
        with pytest.raises(ValueError, match="closed"):
            session.push(np.zeros(3, np.int16))
