"""Behaviour of every store of limits: the one in memory and the one in a real redis-server, each at a time of the tests."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_kit.clock import SYSTEM_CLOCK
from service_kit.limits.memory_store import MemoryStore
from service_kit.limits.redis_store import redis_store
from service_kit.limits.settings import QuotaStoreSection
from service_kit.limits.store import KEPT_S, LEASE_S, Refusal, Store, Stream, Use
from service_kit.metrics import Metrics

from ..redis_server import RedisServer, ToldTime, running_redis, told_time_library


class MemoryTime:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


Advance = Callable[[float], None]
Steps = Callable[[Store, Advance], Awaitable[None]]


@dataclass(frozen=True)
class Told:
    server: RedisServer
    time: ToldTime


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("redis")
    clock = ToldTime(folder / "now")
    with running_redis(folder, environment=clock.environment(told_time_library(folder))) as server:
        yield Told(server, clock)


async def in_memory(steps: Steps) -> None:
    clock = MemoryTime()
    await steps(MemoryStore(clock), clock.advance)  # type: ignore[arg-type]  # it never sleeps


async def shared(steps: Steps, told: Told) -> None:
    metrics = Metrics()
    # The prefix of this run alone: the server keeps what others have left.
    section = QuotaStoreSection(url=told.server.url, timeout_seconds=30, prefix=uuid.uuid4().hex)
    async with redis_store(section, SYSTEM_CLOCK, metrics) as store:
        await steps(store, told.time.advance)
    assert metrics.registry.get_sample_value("lipsync_quota_store_up") == 1
    samples = [sample for metric in metrics.registry.collect() for sample in metric.samples]
    assert not [sample for sample in samples if sample.name == "lipsync_quota_unchecked_total"]


@pytest.fixture(params=["memory", "redis"])
def run(request: pytest.FixtureRequest) -> Callable[[Steps], Awaitable[None]]:
    """Runs steps with a store."""
    if request.param == "memory":
        return in_memory
    told = request.getfixturevalue("told")
    return lambda steps: shared(steps, told)


Run = Callable[[Steps], Awaitable[None]]


def use(key: str, amount: float, *, per_second: float = 1.0, burst: float = 60.0) -> Use:
    return Use(key, per_second, burst, amount)


def stream(session: str, number: int = 0, *keys: str) -> Stream:
    return Stream(session, f"{number:032x}", keys or ("one", "all"))


async def test_a_rate_comes_back_with_time(run: Run) -> None:
    async def steps(store: Store, advance: Advance) -> None:
        assert await store.take([use("a", 50)]) is None
        assert await store.take([use("a", 20)]) == Refusal("a", pytest.approx(10))  # type: ignore[arg-type]
        advance(9.9)
        assert await store.take([use("a", 20)]) == Refusal("a", pytest.approx(0.1))  # type: ignore[arg-type]
        advance(0.1)
        assert await store.take([use("a", 20)]) is None
        assert await store.take([use("b", 60)]) is None

    await run(steps)


async def test_a_refusal_counts_nothing_under_any_key(run: Run) -> None:
    async def steps(store: Store, advance: Advance) -> None:
        assert await store.take([use("a", 60)]) is None
        for uses in ([use("all", 1), use("a", 1)], [use("a", 1), use("all", 1)]):
            assert await store.take(uses) == Refusal("a", pytest.approx(1))  # type: ignore[arg-type]
        assert await store.take([use("all", 60)]) is None

    await run(steps)


async def test_what_was_used_already_counts_beyond_the_limit(run: Run) -> None:
    async def steps(store: Store, advance: Advance) -> None:
        await store.charge([use("a", 100), use("b", 10)])
        assert await store.take([use("a", 0)]) == Refusal("a", pytest.approx(40))  # type: ignore[arg-type]
        assert await store.take([use("b", 50)]) is None

    await run(steps)


async def test_more_than_a_burst_passes_where_nothing_was_used(run: Run) -> None:
    async def steps(store: Store, advance: Advance) -> None:
        assert await store.take([use("a", 100)]) is None
        assert await store.take([use("a", 1)]) == Refusal("a", pytest.approx(41))  # type: ignore[arg-type]

    await run(steps)


async def test_places_are_limited_by_key(run: Run) -> None:
    async def steps(store: Store, advance: Advance) -> None:
        assert await store.begin(stream("first", 1), [1, None], []) is None
        assert await store.begin(stream("second", 2), [1, None], []) == Refusal("one")
        assert await store.begin(stream("second", 2, "two", "all"), [1, 1], []) == Refusal("all")
        assert await store.begin(stream("second", 2, "two", "all"), [1, 2], []) is None
        await store.end(stream("first", 1), is_over=True)
        assert await store.begin(stream("third", 3), [1, 2], []) is None
        assert await store.begin(stream("none", 4, "three"), [0], []) == Refusal("three")

    await run(steps)


async def test_a_lost_session_keeps_its_place_to_come_back_to(run: Run) -> None:
    async def steps(store: Store, advance: Advance) -> None:
        assert await store.begin(stream("first", 1), [1, 1], []) is None
        await store.end(stream("first", 1), is_over=False)
        advance(KEPT_S - 0.1)
        assert await store.begin(stream("second", 2), [1, 1], []) == Refusal("one")
        assert await store.begin(stream("first", 3), [1, 1], []) is None
        await store.end(stream("first", 3), is_over=False)
        advance(KEPT_S)
        assert await store.begin(stream("second", 2), [1, 1], []) is None

    await run(steps)


async def test_callers_that_vanish_and_never_come_back_are_forgotten() -> None:
    clock = MemoryTime()
    store = MemoryStore(clock)  # type: ignore[arg-type]  # it never sleeps
    for number in range(100):
        lost = stream(f"caller-{number}/session", number, f"caller-{number}", "all")
        assert await store.begin(lost, [1, None], []) is None
        await store.end(lost, is_over=False)
    assert len(store) == 101
    clock.advance(KEPT_S)
    assert await store.begin(stream("another", 100, "caller", "all"), [1, 1], []) is None
    assert len(store) == 2


async def test_a_session_that_comes_back_before_its_stream_is_lost_needs_no_second_place(run: Run) -> None:
    async def steps(store: Store, advance: Advance) -> None:
        assert await store.begin(stream("first", 1), [1, 1], []) is None
        assert await store.begin(stream("first", 2), [1, 1], []) is None
        assert await store.begin(stream("first", 3), [1, 1], []) == Refusal("one")
        await store.end(stream("first", 1), is_over=False)
        await store.end(stream("first", 2), is_over=True)
        assert await store.begin(stream("second", 4), [1, 1], []) is None

    await run(steps)


async def test_places_last_as_long_as_they_are_renewed(run: Run) -> None:
    async def steps(store: Store, advance: Advance) -> None:
        assert await store.begin(stream("first", 1), [1, None], []) is None
        for _ in range(3):
            advance(LEASE_S - 0.1)
            assert await store.begin(stream("second", 2), [1, None], []) == Refusal("one")
            await store.renew([stream("first", 1)])
        advance(LEASE_S)
        assert await store.begin(stream("second", 2), [1, None], []) is None
        # The first one runs all the same: it takes its place again, and nobody is cut.
        await store.renew([stream("first", 1), stream("second", 2)])
        await store.end(stream("second", 2), is_over=True)
        assert await store.begin(stream("third", 3), [1, None], []) == Refusal("one")

    await run(steps)


async def test_a_session_with_a_place_is_not_kept_out_by_a_rate(run: Run) -> None:
    async def steps(store: Store, advance: Advance) -> None:
        assert await store.begin(stream("first", 1), [None, None], [use("spoken", 0)]) is None
        await store.end(stream("first", 1), is_over=False)
        await store.charge([use("spoken", 100)])
        refused = Refusal("spoken", pytest.approx(40))  # type: ignore[arg-type]
        assert await store.begin(stream("second", 2), [None, None], [use("spoken", 0)]) == refused
        # It had switched to another avatar.
        assert await store.begin(stream("first", 3, "other", "all"), [None, None], [use("spoken", 0)]) is None
        await store.end(stream("first", 3, "other", "all"), is_over=True)
        advance(KEPT_S)
        refused = Refusal("spoken", pytest.approx(40 - KEPT_S))  # type: ignore[arg-type]
        assert await store.begin(stream("first", 4), [None, None], [use("spoken", 0)]) == refused

    await run(steps)


# Whole milliseconds and microseconds, which both kinds of numbers hold exactly.
_times = st.integers(0, 40_000).map(lambda ms: ms / 1000)
_uses = st.builds(use, st.sampled_from("abc"), st.integers(0, 70), per_second=st.just(1.0), burst=st.sampled_from([1.0, 60.0]))
_streams = st.builds(stream, st.sampled_from(["s", "t", "u"]), st.integers(1, 5), st.sampled_from("xy"), st.just("z"))
_lists = st.lists(_uses, max_size=3, unique_by=lambda each: each.key)
_mosts = st.lists(st.sampled_from([None, 1, 2]), min_size=2, max_size=2)
_steps = st.one_of(
    st.tuples(st.just("advance"), _times),
    st.tuples(st.just("take"), _lists),
    st.tuples(st.just("charge"), _lists),
    st.tuples(st.just("begin"), _streams, _mosts, _lists),
    st.tuples(st.just("renew"), st.lists(_streams, max_size=3)),
    st.tuples(st.just("end"), _streams, st.booleans()),
)


def _comparable(answer: Refusal | None) -> object:
    return answer and (answer.key, answer.wait_s and round(answer.wait_s, 5))


async def _answers(store: Store, advance: Advance, steps: list[tuple[object, ...]]) -> list[object]:
    answers: list[object] = []
    for name, *arguments in steps:
        if name == "advance":
            advance(*arguments)  # type: ignore[arg-type]
        elif name == "end":
            await store.end(arguments[0], is_over=arguments[1])  # type: ignore[arg-type]
        else:
            answers.append(_comparable(await getattr(store, str(name))(*arguments)))
    return answers


@given(st.lists(_steps, min_size=1, max_size=25))
@settings(max_examples=100)
def test_both_stores_decide_alike(told: Told, steps: list[tuple[object, ...]]) -> None:
    answers: list[list[object]] = []

    async def ask(store: Store, advance: Advance) -> None:
        answers.append(await _answers(store, advance, steps))

    async def both() -> None:
        await in_memory(ask)
        await shared(ask, told)

    asyncio.run(both())
    assert answers[0] == answers[1]
