"""When a session goes on with another stream, and when it gives up."""

from __future__ import annotations

import itertools

import grpc
import pytest

from lipsync_client import LipsyncError
from lipsync_client.channel import channel_options
from lipsync_client.reconnecting import Reconnecting

Code = grpc.StatusCode
LOST = LipsyncError(Code.UNAVAILABLE, "the connection is gone")


def running(patience_s: float = 30) -> Reconnecting:
    """A session of which a stream ran."""
    reconnecting = Reconnecting(patience_s, patience_s)
    reconnecting.started(100)
    reconnecting.ran()
    return reconnecting


def failures(reconnecting: Reconnecting, error: LipsyncError, *, from_s: float) -> tuple[int, float]:
    """Fails again and again. Returns how often it goes on, and for how long."""
    now_s, count = from_s, 0
    while True:
        try:
            wait_s = reconnecting.failed(error, now_s, going_away=False)
        except LipsyncError:
            return count, now_s - from_s
        now_s, count = now_s + wait_s, count + 1


def test_the_first_new_stream_is_opened_at_once_and_later_ones_wait() -> None:
    reconnecting = running()
    waits = [reconnecting.failed(LOST, 101, going_away=False) for _ in range(8)]
    assert waits[0] == 0
    assert all(before < after for before, after in itertools.pairwise(waits[:5]))
    assert max(waits) <= 3


def test_it_gives_up_after_the_time_that_the_caller_allows() -> None:
    count, seconds = failures(running(patience_s=30), LOST, from_s=101)
    assert count > 10
    assert 24 < seconds <= 31


def test_a_session_that_never_began_gives_up_early() -> None:
    _, seconds = failures(Reconnecting(30, 30), LOST, from_s=0)
    assert seconds < 3


def test_a_refusal_with_a_time_is_obeyed() -> None:
    refusal = LipsyncError(Code.RESOURCE_EXHAUSTED, "full", retry_after_ms=4000)
    assert 4 <= Reconnecting(30, 30).failed(refusal, 0, going_away=False) <= 6
    _, seconds = failures(Reconnecting(30, 30), refusal, from_s=0)
    assert 20 < seconds <= 33


def test_a_refusal_before_the_first_stream_is_obeyed_only_as_long_as_the_caller_allows() -> None:
    refusal = LipsyncError(Code.RESOURCE_EXHAUSTED, "full", retry_after_ms=4000)
    assert failures(Reconnecting(30, 0), refusal, from_s=0) == (0, 0)
    assert 5 < failures(Reconnecting(30, 10), refusal, from_s=0)[1] < 12
    begun = Reconnecting(30, 0)
    begun.started(100)
    assert 4 <= begun.failed(refusal, 101, going_away=False) <= 6


def test_a_stream_that_runs_begins_the_time_anew() -> None:
    reconnecting = running(patience_s=10)
    for now_s in range(101, 200):
        assert reconnecting.failed(LOST, now_s, going_away=False) == 0
        reconnecting.started(now_s)
        reconnecting.ran()


def test_streams_that_end_after_a_frame_each_are_not_opened_without_a_pause() -> None:
    """A server that breaks whatever it begins would be asked hundreds of times a second, by every session that it had."""
    reconnecting, now_s, streams = running(patience_s=10), 101.0, 0
    while now_s < 161:
        now_s += reconnecting.failed(LOST, now_s, going_away=False)
        reconnecting.started(now_s)
        reconnecting.ran()
        now_s, streams = now_s + 0.01, streams + 1
    assert 20 < streams < 60
    now_s += 1  # one that runs well for a while
    assert reconnecting.failed(LOST, now_s, going_away=False) == 0


def test_so_does_one_that_has_nothing_to_say_for_long() -> None:
    reconnecting = running(patience_s=10)
    reconnecting.started(100)
    assert reconnecting.failed(LOST, 1000, going_away=False) == 0
    reconnecting.started(1001)
    assert reconnecting.failed(LOST, 2000, going_away=False) == 0


def test_one_that_starts_and_breaks_again_and_again_does_not() -> None:
    reconnecting = running(patience_s=10)

    def break_again_and_again() -> None:
        now_s = 101.0
        for _ in range(100):
            now_s += reconnecting.failed(LOST, now_s, going_away=False)
            reconnecting.started(now_s)
            now_s += 0.2

    with pytest.raises(LipsyncError):
        break_again_and_again()


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK], ids=lambda code: code.name)
@pytest.mark.parametrize("from_server", [True, False])
@pytest.mark.parametrize("going_away", [True, False])
def test_statuses(code: grpc.StatusCode, from_server: bool, going_away: bool) -> None:
    """CANCELLED by the service itself is the word of an operator; a deadline that was announced is the session's length."""
    resumes = (
        code is Code.UNAVAILABLE
        or (code is Code.CANCELLED and not from_server)
        or (code is Code.DEADLINE_EXCEEDED and going_away)
    )
    error = LipsyncError(code, "words", from_server=from_server)
    if resumes:
        assert running().failed(error, 101, going_away=going_away) == 0
    else:
        with pytest.raises(LipsyncError):
            running().failed(error, 101, going_away=going_away)


def test_grpc_itself_does_not_repeat_sessions() -> None:
    """Nor anything else."""
    assert ("grpc.enable_retries", 0) in channel_options("localhost:1", max_message_mb=1)
