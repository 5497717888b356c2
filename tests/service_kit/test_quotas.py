"""Quotas at a time that the tests say: what is refused, for how long, and what goes on all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest

from service_kit.callers.caller import ALL_SCOPES, Caller, Limits, current
from service_kit.errors import NotFound, ResourceExhausted, Unavailable
from service_kit.limits.memory_store import MemoryStore
from service_kit.limits.quotas import CHARGE_S, MOST_NAMES, Quotas
from service_kit.limits.settings import QuotasSection
from service_kit.limits.store import KEPT_S, LEASE_S
from service_kit.metrics import Metrics
from service_kit.tasks import beside

from ..virtual_clock import VirtualClock


class Counted:
    def __init__(self, **section: object) -> None:
        self.clock, self.metrics = VirtualClock(), Metrics()
        self.quotas = Quotas(QuotasSection.model_validate(section), MemoryStore(self.clock), self.clock, self.metrics)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@contextmanager
def called_by(name: str, limits: Limits = ()) -> Iterator[None]:
    token = current.set(Caller(name, ALL_SCOPES, limits=limits))
    try:
        yield
    finally:
        current.reset(token)


@asynccontextmanager
async def calls_of(name: str) -> AsyncIterator[AsyncExitStack]:
    with called_by(name):
        async with AsyncExitStack() as running:
            yield running


async def refused(call: Coroutine[Any, Any, None]) -> int:
    """Milliseconds to wait."""
    with pytest.raises(ResourceExhausted) as caught:
        await call
    assert caught.value.retry_after_ms is not None
    return caught.value.retry_after_ms


async def opened(counted: Counted, stack: AsyncExitStack, session_id: str, avatar: str = "demo") -> None:
    await stack.enter_async_context(counted.quotas.session(avatar, session_id))


async def pass_time(counted: Counted, seconds: float) -> None:
    """Does as services do: speech is counted, and places are renewed."""
    async with beside(counted.quotas.follow()):
        await counted.clock.asleep()
        await counted.clock.advance(seconds)


async def test_frames_come_back_at_their_rate() -> None:
    counted = Counted(per_caller={"batch_frames_per_minute": 60})
    with called_by("alice"):
        await counted.quotas.batch("demo", 50)
        assert await refused(counted.quotas.batch("demo", 20)) == 10_000
        await counted.clock.advance(9.9)
        assert await refused(counted.quotas.batch("demo", 20)) == 100
        await counted.clock.advance(0.1)
        await counted.quotas.batch("demo", 20)
    with called_by("bob"):
        await counted.quotas.batch("demo", 60)
    assert counted.value("lipsync_caller_batch_frames_total", caller="alice") == 70
    assert counted.value("lipsync_quota_refused_total", caller="alice", limit="frames") == 2


async def test_a_refusal_counts_nothing_anywhere() -> None:
    counted = Counted(per_caller={"batch_frames_per_minute": 60}, in_all={"batch_frames_per_minute": 100})
    with called_by("alice"):
        await counted.quotas.batch("demo", 60)
        await refused(counted.quotas.batch("demo", 1))
    with called_by("bob"):
        await counted.quotas.batch("demo", 40)
        await refused(counted.quotas.batch("demo", 1))


async def test_more_than_a_minutes_frames_are_made_where_none_were() -> None:
    counted = Counted(in_all={"batch_frames_per_minute": 10})
    await counted.quotas.batch("demo", 50)
    assert await refused(counted.quotas.batch("demo", 1)) == pytest.approx(4 * 60_000 + 6_000)


async def test_loads_count_by_the_hour_and_by_avatar() -> None:
    counted = Counted(per_avatar={"loads_per_hour": 2})
    await counted.quotas.load("demo")
    await counted.quotas.load("demo")
    await counted.quotas.load("other")
    assert await refused(counted.quotas.load("demo")) == 1_800_000


async def test_sessions_at_once_are_limited_by_caller_by_avatar_and_in_all() -> None:
    counted = Counted(per_caller={"sessions": 2}, per_avatar={"sessions": 3}, in_all={"sessions": 4})
    async with AsyncExitStack() as running:
        with called_by("alice"):
            await opened(counted, running, "a1")
            async with AsyncExitStack() as second:
                await opened(counted, second, "a2")
                await refused(opened(counted, running, "a3"))
            await opened(counted, running, "a3")
        with called_by("bob"):
            await opened(counted, running, "b1")
            await refused(opened(counted, running, "b2"))  # of the avatar
            await opened(counted, running, "b2", "other")
        with called_by("carol"):
            await refused(opened(counted, running, "c1", "third"))  # in all
    async with calls_of("carol") as running:
        await opened(counted, running, "c1")


@pytest.mark.parametrize("lost", [asyncio.CancelledError(), Unavailable("drained")])
async def test_a_session_that_lost_its_connection_keeps_its_place_for_a_while(lost: BaseException) -> None:
    counted = Counted(per_caller={"sessions": 1})
    async with calls_of("alice") as running:
        with pytest.raises(type(lost)):
            async with counted.quotas.session("demo", "first"):
                raise lost
        await refused(opened(counted, running, "second"))
        await opened(counted, running, "first")  # resumed
        await pass_time(counted, 10 * LEASE_S)
        await refused(opened(counted, running, "second"))
        await running.aclose()
        await opened(counted, running, "second")
        await running.aclose()
        with pytest.raises(asyncio.CancelledError):
            async with counted.quotas.session("demo", "third"):
                raise asyncio.CancelledError
        await counted.clock.advance(KEPT_S)
        await opened(counted, running, "fourth")


async def test_a_session_that_failed_has_no_place() -> None:
    counted = Counted(per_caller={"sessions": 1})
    async with calls_of("alice") as running:
        with pytest.raises(NotFound):
            async with counted.quotas.session("demo", "first"):
                raise NotFound("no avatar")
        await opened(counted, running, "second")


async def test_one_id_for_many_sessions_gains_one_place_at_most() -> None:
    """A session that comes back may find its lost stream still there, so two streams of an id are one session."""
    counted = Counted(per_caller={"sessions": 2})
    async with calls_of("alice") as running:
        for _ in range(3):
            await opened(counted, running, "same")
        await refused(opened(counted, running, "same"))
        await refused(opened(counted, running, "another"))


async def test_speech_keeps_new_sessions_out_and_ends_none() -> None:
    counted = Counted(per_caller={"speech_seconds_per_minute": 60})
    async with calls_of("alice") as running:
        await opened(counted, running, "first")
        for _ in range(90):
            counted.quotas.spoken(Caller("alice", ALL_SCOPES), "demo", 1.0)
        await pass_time(counted, CHARGE_S)
        assert await refused(opened(counted, running, "second")) == 30_000
        await counted.clock.advance(30)
        await opened(counted, running, "second")
    async with calls_of("bob") as running:
        await opened(counted, running, "third")
    assert counted.value("lipsync_caller_speech_seconds_total", caller="alice") == 90


async def test_a_session_that_comes_back_is_not_kept_out_by_its_own_speech() -> None:
    counted = Counted(per_caller={"speech_seconds_per_minute": 10})
    async with calls_of("alice") as running:
        with pytest.raises(asyncio.CancelledError):
            async with counted.quotas.session("demo", "first"):
                raise asyncio.CancelledError
        counted.quotas.spoken(Caller("alice", ALL_SCOPES), "demo", 100)
        await pass_time(counted, CHARGE_S)
        await refused(opened(counted, running, "second"))
        await opened(counted, running, "first", "other")  # it had switched
        await running.aclose()
        await refused(opened(counted, running, "first"))  # it was over


async def test_another_callers_session_id_opens_nothing() -> None:
    counted = Counted(per_caller={"speech_seconds_per_minute": 10}, in_all={"sessions": 1})
    counted.quotas.spoken(Caller("bob", ALL_SCOPES), "demo", 100)
    await pass_time(counted, CHARGE_S)
    async with calls_of("alice") as running:
        await opened(counted, running, "first")
        with called_by("bob"):
            await refused(opened(counted, running, "first"))
        with called_by("carol"):
            await refused(opened(counted, running, "first"))
    async with calls_of("alice") as running:  # names and ids may have slashes
        await opened(counted, running, "b/first")
        with called_by("alice/b"):
            await refused(opened(counted, running, "first"))


async def test_without_names_only_the_others_count() -> None:
    counted = Counted(per_caller={"sessions": 0, "batch_frames_per_minute": 1})
    await counted.quotas.batch("demo", 50)
    await counted.quotas.batch("demo", 50)
    async with AsyncExitStack() as running:
        await opened(counted, running, "first")


async def test_limits_of_a_name_go_before_the_defaults_and_those_of_a_credential_before_both() -> None:
    counted = Counted(
        per_caller={"batch_frames_per_minute": 10, "loads_per_hour": 1},
        callers=[{"names": "batch-*", "batch_frames_per_minute": 50}, {"names": "*-1", "batch_frames_per_minute": 5}],
    )
    for name, limits, most in (
        ("alice", (), 10),
        ("alice-1", (), 5),
        ("batch-1", (), 50),
        ("batch-2", (("batch_frames_per_minute", 7.0),), 7),
        ("bob", (("batch_frames_per_minute", 20.0),), 20),
    ):
        with called_by(name, limits):
            await counted.quotas.batch("demo", most)
            await refused(counted.quotas.batch("demo", 1))
            await counted.quotas.load("demo")
            await refused(counted.quotas.load("demo"))
    with called_by("free", (("batch_frames_per_minute", None),)):
        for _ in range(5):
            await counted.quotas.batch("demo", 1000)


async def test_sessions_of_a_caller_with_a_limit_of_its_own() -> None:
    counted = Counted(per_caller={"sessions": 1, "speech_seconds_per_minute": 10})
    caller = Caller("alice", ALL_SCOPES, limits=(("sessions", 2), ("speech_seconds_per_minute", 60.0)))
    async with AsyncExitStack() as running:
        running.enter_context(called_by(caller.name, caller.limits))
        await opened(counted, running, "first")
        counted.quotas.spoken(caller, "demo", 30.0)
        await pass_time(counted, CHARGE_S)
        await opened(counted, running, "second")
        await refused(opened(counted, running, "third"))


async def test_names_in_metrics_are_bounded() -> None:
    counted = Counted()
    for number in range(MOST_NAMES + 50):
        with called_by(f"caller-{number}"):
            await counted.quotas.batch("demo", 1)
    assert counted.value("lipsync_caller_batch_frames_total", caller="other") == 50
