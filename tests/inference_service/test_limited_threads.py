"""Work that takes too long, or for ever, on real threads and in virtual time."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from inference_service.limited_threads import LimitedThreads, Overrun, interruptible

from ..virtual_clock import VirtualClock

PATIENCE_S = 60
LIMIT_S = 10.0


class Step:
    """A step of some work that waits until it is told to go on, or, where it can be interrupted, until that."""

    def __init__(self, *, ends: bool = True) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._end = self.go_on.set if ends else lambda: None

    def __call__(self) -> str:
        with interruptible("counting stars", self._end):
            self.begun.set()
            assert self.go_on.wait(PATIENCE_S)
        return "counted"

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, PATIENCE_S)


class Suspended(VirtualClock):
    """A clock that jumps when its process goes on after it was stopped; sleepers wake late."""

    stopped_s = 0.0

    def now(self) -> float:
        return super().now() + self.stopped_s


@asynccontextmanager
async def threads(
    count: int = 1, clock: VirtualClock | None = None, on_lost: Callable[[str], None] = pytest.fail
) -> AsyncIterator[LimitedThreads]:
    pool = LimitedThreads(count, "test", on_lost=on_lost, clock=clock or VirtualClock())
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield pool
    finally:
        await pool.close()


async def test_results_and_errors_come_back() -> None:
    async with threads(2) as pool:
        assert await pool.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0, limit_s=LIMIT_S)


async def test_a_result_is_freed_as_soon_as_its_caller_drops_it() -> None:
    gc.disable()  # a collection would hide a ring of references
    try:
        async with threads() as pool:
            result = await pool.run(Step)
            dropped = weakref.ref(result)
            del result
            await pool.run(lambda: None)  # the only thread is through with the first work now
            assert dropped() is None
    finally:
        gc.enable()


async def test_as_much_runs_at_the_same_time_as_there_are_threads() -> None:
    together = threading.Barrier(3)
    async with threads(3) as pool:
        await asyncio.gather(*(pool.run(lambda: together.wait(PATIENCE_S)) for _ in range(6)))


async def test_a_step_that_takes_too_long_is_interrupted() -> None:
    clock, step = VirtualClock(), Step()
    async with threads(clock=clock) as pool:
        running = asyncio.create_task(pool.run(step, limit_s=LIMIT_S))
        await step.until_begun()
        await clock.advance(LIMIT_S - 1)
        assert not step.go_on.is_set()
        await clock.advance(2)
        with pytest.raises(Overrun, match="counting stars has taken longer than 10 s"):
            await running
        assert await pool.run(lambda: "next") == "next"


async def test_many_steps_may_take_longer_than_one() -> None:
    clock, steps = VirtualClock(), [Step() for _ in range(5)]
    async with threads(clock=clock) as pool:
        running = asyncio.create_task(pool.run(lambda: [step() for step in steps], limit_s=LIMIT_S))
        for step in steps:
            await step.until_begun()
            await clock.advance(LIMIT_S - 1)
            step.go_on.set()
        assert await running == ["counted"] * 5


async def test_work_without_a_limit_may_take_any_time() -> None:
    clock, step = VirtualClock(), Step()
    async with threads(clock=clock) as pool:
        running = asyncio.create_task(pool.run(step))
        await step.until_begun()
        await clock.advance(3600)
        step.go_on.set()
        assert await running == "counted"


async def test_waiting_for_a_thread_is_not_counted() -> None:
    clock, first, second = VirtualClock(), Step(), Step()
    async with threads(clock=clock) as pool:
        running = [asyncio.create_task(pool.run(step, limit_s=limit)) for step, limit in ((first, None), (second, LIMIT_S))]
        await first.until_begun()
        await clock.advance(10 * LIMIT_S)
        first.go_on.set()
        await second.until_begun()
        await clock.advance(LIMIT_S - 1)
        second.go_on.set()
        assert await asyncio.gather(*running) == ["counted", "counted"]


async def test_time_in_which_the_process_was_stopped_is_not_counted() -> None:
    clock, step = Suspended(), Step()
    async with threads(clock=clock) as pool:
        running = asyncio.create_task(pool.run(step, limit_s=LIMIT_S))
        await step.until_begun()
        clock.stopped_s = 3600
        await clock.advance(LIMIT_S - 2)
        step.go_on.set()
        assert await running == "counted"


async def test_a_thread_that_does_not_come_back_is_replaced() -> None:
    clock, stuck = VirtualClock(), Step(ends=False)
    lost: list[str] = []
    async with threads(clock=clock, on_lost=lost.append) as pool:
        running = asyncio.create_task(pool.run(stuck, limit_s=LIMIT_S))
        waiting = asyncio.create_task(pool.run(lambda: "others go on"))
        await stuck.until_begun()
        await clock.advance(LIMIT_S + 1)
        assert not running.done()
        await clock.advance(5)
        with pytest.raises(Overrun):
            await running
        assert await waiting == "others go on"
        stuck.go_on.set()
    assert lost == ["counting stars has taken longer than 10 s and does not end: one thread of test is lost"]


async def test_work_that_nobody_waits_for_any_more_is_interrupted() -> None:
    step, ended = Step(), threading.Event()

    def work() -> None:
        step()
        ended.set()
        step()

    async with threads() as pool:
        running = asyncio.create_task(pool.run(work))
        await step.until_begun()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await asyncio.to_thread(ended.wait, PATIENCE_S)
        assert await pool.run(lambda: "next") == "next", "its second step did not begin"


async def test_the_error_of_work_that_nobody_waits_for_is_not_reported_as_forgotten() -> None:
    reports: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    step = Step()

    def work() -> None:
        step()
        raise ValueError("too late")

    async with threads() as pool:
        running = asyncio.create_task(pool.run(work))
        await step.until_begun()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await pool.run(lambda: "next") == "next"
        del running
        gc.collect()
    assert not reports


async def test_closing_interrupts_what_runs_and_leaves_out_what_waits() -> None:
    step, never = Step(), Step()
    async with threads() as pool:
        running, waiting = (asyncio.create_task(pool.run(work)) for work in (step, never))
        await step.until_begun()
        await pool.close()
        assert await running == "counted"
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(RuntimeError):
            await pool.run(lambda: "too late")
    assert not never.begun.is_set()


def test_elsewhere_a_step_is_like_any_code() -> None:
    with interruptible("alone", lambda: None):
        pass
