"""Things that are kept for a while, and made once."""

from __future__ import annotations

import asyncio

import pytest

from gateway_service.api.kept import Kept

from ..virtual_clock import VirtualClock


class Maker:
    """Makes numbered values when it is let."""

    def __init__(self) -> None:
        self.made = 0
        self.go_on = asyncio.Event()

    async def make(self) -> bytes:
        self.made += 1
        number = self.made
        await self.go_on.wait()
        return b"x" * number


def kept(clock: VirtualClock, most: int = 100) -> Kept[str, bytes]:
    return Kept(clock, seconds=10, most=most, size=len)


async def test_many_who_ask_at_once_get_one_making_and_then_what_is_kept_for_its_time() -> None:
    clock, maker = VirtualClock(), Maker()
    values = kept(clock)
    asking = [asyncio.create_task(values.get("a", maker.make)) for _ in range(20)]
    await asyncio.sleep(0)
    asking[0].cancel()  # the others still get it
    maker.go_on.set()
    assert await asyncio.gather(*asking[1:]) == [b"x"] * 19
    await clock.advance(9.9)
    assert await values.get("a", maker.make) == b"x"
    await clock.advance(0.2)
    assert await values.get("a", maker.make) == b"xx"


async def test_a_failure_is_told_to_all_who_wait_and_not_kept() -> None:
    values, maker = kept(VirtualClock()), Maker()
    maker.go_on.set()

    async def fail() -> bytes:
        await asyncio.sleep(0)
        raise ValueError("no")

    results = await asyncio.gather(*(values.get("a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in results] == [ValueError] * 3
    assert await values.get("a", maker.make) == b"x"


async def test_the_least_recently_used_go_first_and_sizes_are_bounded() -> None:
    values = kept(VirtualClock(), most=10)

    async def of(size: int) -> bytes:
        return b"y" * size

    await values.get("old", lambda: of(4))
    await values.get("used", lambda: of(4))
    await values.get("old", lambda: of(1))
    await values.get("new", lambda: of(5))
    assert values.total == 9
    assert await values.get("old", lambda: of(1)) == b"yyyy"
    assert await values.get("used", lambda: of(2)) == b"yy"
    assert len(await values.get("huge", lambda: of(11))) == 11
    assert values.total == 0


async def test_closing_ends_what_is_being_made() -> None:
    values, maker = kept(VirtualClock()), Maker()
    asking = asyncio.create_task(values.get("a", maker.make))
    await asyncio.sleep(0)
    await values.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
