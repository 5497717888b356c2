"""Quotas at a time that the tests say: what is refused, for how long, and what goes on all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from service_kit.callers.caller import ALL_SCOPES, Caller, current
from service_kit.errors import NotFound, ResourceExhausted, Unavailable
from service_kit.limits.quotas import MOST_NAMES, Quotas
from service_kit.limits.session_places import KEPT_S
from service_kit.limits.settings import QuotasSection
from service_kit.metrics import Metrics


class Clock:
    """Time for what never sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s


class Counted:
    def __init__(self, **section: object) -> None:
        self.clock, self.metrics = Clock(), Metrics()
        self.quotas = Quotas(QuotasSection.model_validate(section), self.clock, self.metrics)  # type: ignore[arg-type]

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@contextmanager
def called_by(name: str) -> Iterator[None]:
    token = current.set(Caller(name, ALL_SCOPES))
    try:
        yield
    finally:
        current.reset(token)


def refused(call: object) -> int:
    """Milliseconds to wait."""
    with pytest.raises(ResourceExhausted) as caught:
        call()  # type: ignore[operator]
    assert caught.value.retry_after_ms is not None
    return caught.value.retry_after_ms


def opened(counted: Counted, stack: ExitStack, session_id: str, avatar: str = "demo") -> None:
    stack.enter_context(counted.quotas.session(avatar, session_id))


def test_frames_come_back_at_their_rate() -> None:
    counted = Counted(per_caller={"batch_frames_per_minute": 60})
    with called_by("alice"):
        counted.quotas.batch("demo", 50)
        assert refused(lambda: counted.quotas.batch("demo", 20)) == 10_000
        counted.clock.now_s += 9.9
        assert refused(lambda: counted.quotas.batch("demo", 20)) == 100
        counted.clock.now_s += 0.1
        counted.quotas.batch("demo", 20)
    with called_by("bob"):
        counted.quotas.batch("demo", 60)
    assert counted.value("lipsync_caller_batch_frames_total", caller="alice") == 70
    assert counted.value("lipsync_quota_refused_total", caller="alice", limit="frames") == 2


def test_a_refusal_counts_nothing_anywhere() -> None:
    counted = Counted(per_caller={"batch_frames_per_minute": 60}, in_all={"batch_frames_per_minute": 100})
    with called_by("alice"):
        counted.quotas.batch("demo", 60)
        refused(lambda: counted.quotas.batch("demo", 1))
    with called_by("bob"):
        counted.quotas.batch("demo", 40)
        refused(lambda: counted.quotas.batch("demo", 1))


def test_more_than_a_minutes_frames_are_made_where_none_were() -> None:
    counted = Counted(in_all={"batch_frames_per_minute": 10})
    counted.quotas.batch("demo", 50)
    assert refused(lambda: counted.quotas.batch("demo", 1)) == pytest.approx(4 * 60_000 + 6_000)


def test_loads_count_by_the_hour_and_by_avatar() -> None:
    counted = Counted(per_avatar={"loads_per_hour": 2})
    counted.quotas.load("demo")
    counted.quotas.load("demo")
    counted.quotas.load("other")
    assert refused(lambda: counted.quotas.load("demo")) == 1_800_000


def test_sessions_at_once_are_limited_by_caller_by_avatar_and_in_all() -> None:
    counted = Counted(per_caller={"sessions": 2}, per_avatar={"sessions": 3}, in_all={"sessions": 4})
    with ExitStack() as running:
        with called_by("alice"):
            opened(counted, running, "a1")
            with ExitStack() as second:
                opened(counted, second, "a2")
                refused(lambda: opened(counted, running, "a3"))
            opened(counted, running, "a3")
        with called_by("bob"):
            opened(counted, running, "b1")
            refused(lambda: opened(counted, running, "b2"))  # of the avatar
            opened(counted, running, "b2", "other")
        with called_by("carol"):
            refused(lambda: opened(counted, running, "c1", "third"))  # in all
    with called_by("carol"), ExitStack() as running:
        opened(counted, running, "c1")


@pytest.mark.parametrize("lost", [asyncio.CancelledError(), Unavailable("drained")])
def test_a_session_that_lost_its_connection_keeps_its_place_for_a_while(lost: BaseException) -> None:
    counted = Counted(per_caller={"sessions": 1})
    with called_by("alice"), ExitStack() as running:
        with pytest.raises(type(lost)), counted.quotas.session("demo", "first"):
            raise lost
        refused(lambda: opened(counted, running, "second"))
        opened(counted, running, "first")  # resumed
        counted.clock.now_s += 10 * KEPT_S
        refused(lambda: opened(counted, running, "second"))
        running.close()
        opened(counted, running, "second")
        running.close()
        with pytest.raises(asyncio.CancelledError), counted.quotas.session("demo", "third"):
            raise asyncio.CancelledError
        counted.clock.now_s += KEPT_S
        opened(counted, running, "fourth")


def test_a_session_that_failed_has_no_place() -> None:
    counted = Counted(per_caller={"sessions": 1})
    with called_by("alice"), ExitStack() as running:
        with pytest.raises(NotFound), counted.quotas.session("demo", "first"):
            raise NotFound("no avatar")
        opened(counted, running, "second")


def test_one_id_for_many_sessions_gains_one_place_at_most() -> None:
    """A session that comes back may find its lost stream still there, so two streams of an id are one session."""
    counted = Counted(per_caller={"sessions": 2})
    with called_by("alice"), ExitStack() as running:
        for _ in range(3):
            opened(counted, running, "same")
        refused(lambda: opened(counted, running, "same"))
        refused(lambda: opened(counted, running, "another"))


def test_speech_keeps_new_sessions_out_and_ends_none() -> None:
    counted = Counted(per_caller={"speech_seconds_per_minute": 60})
    with called_by("alice"), ExitStack() as running:
        opened(counted, running, "first")
        for _ in range(90):
            counted.quotas.spoken("alice", "demo", 1.0)
        assert refused(lambda: opened(counted, running, "second")) == 30_000
        counted.clock.now_s += 30
        opened(counted, running, "second")
    with called_by("bob"), ExitStack() as running:
        opened(counted, running, "third")
    assert counted.value("lipsync_caller_speech_seconds_total", caller="alice") == 90


def test_a_session_that_comes_back_is_not_kept_out_by_its_own_speech() -> None:
    counted = Counted(per_caller={"speech_seconds_per_minute": 10})
    with called_by("alice"), ExitStack() as running:
        with pytest.raises(asyncio.CancelledError), counted.quotas.session("demo", "first"):
            raise asyncio.CancelledError
        counted.quotas.spoken("alice", "demo", 100)
        refused(lambda: opened(counted, running, "second"))
        opened(counted, running, "first", "other")  # it had switched
        running.close()
        refused(lambda: opened(counted, running, "first"))  # it was over


def test_another_callers_session_id_opens_nothing() -> None:
    counted = Counted(per_caller={"speech_seconds_per_minute": 10}, in_all={"sessions": 1})
    counted.quotas.spoken("bob", "demo", 100)
    with called_by("alice"), ExitStack() as running:
        opened(counted, running, "first")
        with called_by("bob"):
            refused(lambda: opened(counted, running, "first"))
        with called_by("carol"):
            refused(lambda: opened(counted, running, "first"))


def test_without_names_only_the_others_count() -> None:
    counted = Counted(per_caller={"sessions": 0, "batch_frames_per_minute": 1})
    counted.quotas.batch("demo", 50)
    counted.quotas.batch("demo", 50)
    with ExitStack() as running:
        opened(counted, running, "first")


def test_names_in_metrics_are_bounded() -> None:
    counted = Counted()
    for number in range(MOST_NAMES + 50):
        with called_by(f"caller-{number}"):
            counted.quotas.batch("demo", 1)
    assert counted.value("lipsync_caller_batch_frames_total", caller="other") == 50
