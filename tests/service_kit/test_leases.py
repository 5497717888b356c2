"""Leases in virtual time: opened once, shielded, opened anew, dropped, left idle, closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest

from service_kit.leases import Lease, Leases, Policy, first_to_go

from ..virtual_clock import VirtualClock


class Thing:
    """Something that is opened and closed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = 0


class Things:
    """Opens them, and holds the opening of some of them up."""

    def __init__(self) -> None:
        self.numbers = count()
        self.opened: list[str] = []
        self.held: set[str] = set()
        self.go_on = asyncio.Event()
        self.begun = asyncio.Event()
        self.fails = False
        self.refused: str | None = None

    async def open(self, key: str) -> Thing:
        self.opened.append(key)
        if key in self.held:
            self.begun.set()
            await self.go_on.wait()
        if self.fails:
            raise OSError(key)
        return Thing(next(self.numbers))

    def admit(self, lease: Lease[Thing]) -> None:
        assert lease.value
        if lease.key == self.refused:
            raise RuntimeError("no room")

    @staticmethod
    def close(thing: Thing) -> None:
        thing.closed += 1


@pytest.fixture
def things() -> Things:
    return Things()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def leases(things: Things, clock: VirtualClock) -> AsyncIterator[Leases[Thing]]:
    leases = Leases(
        things.open, admit=things.admit, close=things.close, clock=clock, wall_clock=lambda: 1_700_000_000 + clock.now()
    )
    async with asyncio.timeout(60):
        yield leases
        await leases.close()


async def number(leases: Leases[Thing], key: str = "a", *, anew: bool = False) -> int:
    async with leases.hold(key, anew=anew) as lease:
        return lease.value.number


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_it_is_opened_once_however_many_ask(leases: Leases[Thing], things: Things) -> None:
    things.held.add("a")
    asking = [asyncio.create_task(number(leases)) for _ in range(10)]
    await things.begun.wait()
    assert leases.find("a") is None
    assert await number(leases, "b") == 0, "what is slow to open holds up nothing else"
    things.go_on.set()
    assert set(await asyncio.gather(*asking)) == {1}
    assert await number(leases) == 1
    assert things.opened == ["a", "b"]


async def test_who_gives_up_takes_it_from_nobody(leases: Leases[Thing], things: Things) -> None:
    things.held.add("a")
    leaving, staying = (asyncio.create_task(number(leases)) for _ in range(2))
    await things.begun.wait()
    leaving.cancel()
    await settle()
    assert leaving.cancelled()
    things.go_on.set()
    assert await staying == 0
    assert leases.opened[0].in_use == 0


async def test_what_nobody_waits_for_any_more_is_opened_all_the_same(leases: Leases[Thing], things: Things) -> None:
    things.held.add("a")
    leaving = asyncio.create_task(number(leases))
    await things.begun.wait()
    leaving.cancel()
    things.go_on.set()
    await settle()
    assert leases.find("a")


@pytest.mark.parametrize("how", ["opening", "admitting"])
async def test_what_cannot_be_opened_leaves_nothing_and_is_tried_again(leases: Leases[Thing], things: Things, how: str) -> None:
    things.fails, things.refused = how == "opening", "a"
    for _ in range(2):
        with pytest.raises((OSError, RuntimeError)):
            await number(leases)
        assert leases.opened == []
    things.fails, things.refused = False, None
    await number(leases)
    assert things.opened == ["a"] * 3


async def test_a_refused_one_is_closed(leases: Leases[Thing], things: Things) -> None:
    closed: list[Thing] = []
    leases = Leases(things.open, admit=things.admit, close=closed.append)
    things.refused = "a"
    with pytest.raises(RuntimeError):
        await number(leases)
    assert [thing.number for thing in closed] == [0]


async def test_opened_anew_beside_the_one_that_is_held(leases: Leases[Thing], things: Things) -> None:
    async with leases.acquire("a") as old:
        assert not old.renewed
        assert await number(leases, anew=True) == 1
        assert (old.value.number, old.renewed, old.dropped, old.value.closed) == (0, True, True, 0)
        async with leases.acquire("a") as new:
            assert (new.value.number, new.renewed) == (1, False)
            leases.drop("a")
            assert not new.renewed, "there is no newer one"
            assert await number(leases) == 2
            assert new.renewed
    assert old.value.closed == 1


async def test_a_failure_to_open_anew_leaves_the_older_one(leases: Leases[Thing], things: Things) -> None:
    await number(leases)
    things.fails = True
    with pytest.raises(OSError, match="a"):
        await number(leases, anew=True)
    assert await number(leases) == 0
    assert not leases.opened[0].dropped


async def test_anew_is_not_content_with_what_was_begun_before(leases: Leases[Thing], things: Things) -> None:
    things.held.add("a")
    earlier = asyncio.create_task(number(leases))
    await things.begun.wait()
    later = [asyncio.create_task(number(leases, anew=True)) for _ in range(5)]
    await settle()
    assert things.opened == ["a"]
    things.go_on.set()
    assert await earlier == 0
    assert set(await asyncio.gather(*later)) == {1}, "once for all of them"


async def test_asked_for_anew_at_the_same_moment_it_is_opened_once(leases: Leases[Thing], things: Things) -> None:
    assert set(await asyncio.gather(*(number(leases, anew=True) for _ in range(5)))) == {0}


async def test_it_is_renewed_once_however_many_find_it_outdated(leases: Leases[Thing], things: Things) -> None:
    async with leases.acquire("a") as old:
        await asyncio.gather(*(leases.renew(old) for _ in range(5)))
        await leases.renew(old)
        assert await number(leases) == 1
    assert things.opened == ["a", "a"]


@pytest.mark.parametrize("in_use", [False, True])
async def test_a_dropped_one_is_closed_when_nobody_has_it(leases: Leases[Thing], in_use: bool) -> None:
    async with leases.acquire("a") as lease:
        if in_use:
            assert leases.drop("a")
            assert lease.value.closed == 0
            assert await number(leases) == 1, "the next one gets another"
    if not in_use:
        assert leases.drop("a")
    assert lease.value.closed == 1
    assert leases.drop("a") == in_use


async def test_dropped_while_it_is_opened(leases: Leases[Thing], things: Things) -> None:
    """Only those that wait for it get it."""
    things.held.add("a")
    waiting = asyncio.create_task(number(leases))
    await things.begun.wait()
    assert leases.drop("a")
    things.go_on.set()
    assert await waiting == 0
    assert leases.opened == []


async def test_use_is_counted_and_waiting_is_not(leases: Leases[Thing], clock: VirtualClock) -> None:
    await number(leases)
    lease = leases.opened[0]
    assert (lease.usage_count, lease.last_used_unix_s, lease.opened_unix_s) == (0, 0, 1_700_001_000)
    await clock.advance(5)
    for _ in range(3):
        async with leases.acquire("a"):
            assert lease.in_use == 1
    await clock.advance(5)
    assert (lease.usage_count, lease.in_use, lease.last_used_s, lease.last_used_unix_s) == (3, 0, 1005, 1_700_001_005)


async def test_idle_ones_are_dropped_by_the_time_of_their_last_use(leases: Leases[Thing], clock: VirtualClock) -> None:
    await number(leases, "a")
    await number(leases, "b")
    async with leases.acquire("c"):
        await clock.advance(59)
        assert leases.drop_idle(60) == []
        await number(leases, "b")
        await clock.advance(1)
        assert leases.drop_idle(60) == ["a"]
        await clock.advance(1000)
        assert leases.drop_idle(60) == ["b"]
    assert leases.drop_idle(60) == [], "c was in use until now"
    await clock.advance(60)
    assert leases.drop_idle(60) == ["c"]


@pytest.mark.parametrize(("policy", "order"), [("lfu", "bca"), ("lru", "abc")])
async def test_who_makes_room(leases: Leases[Thing], clock: VirtualClock, policy: Policy, order: str) -> None:
    for key, times in (("a", 3), ("b", 1), ("c", 1), ("d", 1)):
        for _ in range(times):
            async with leases.acquire(key):
                await clock.advance(1)
    async with leases.acquire("d"):
        assert [lease.key for lease in first_to_go(leases.opened, policy)] == list(order)


async def test_closing_ends_everything(leases: Leases[Thing], things: Things) -> None:
    await number(leases, "a")
    open_one = leases.opened[0]
    things.held.add("b")
    waiting = asyncio.create_task(number(leases, "b"))
    await things.begun.wait()
    await leases.close()
    assert open_one.value.closed == 1
    await settle()
    assert waiting.cancelled()
    assert leases.opened == []
