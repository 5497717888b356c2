from __future__ import annotations

import asyncio

import pytest

from service_kit.readiness import HANGING_SECONDS, Liveness, Readiness

from ..virtual_clock import VirtualClock


def test_ready_when_nothing_blocks() -> None:
    readiness = Readiness()
    readiness.block("startup", "starting")
    readiness.block("inference", "inference cannot be reached")
    assert readiness.reason == "starting; inference cannot be reached"
    readiness.clear("startup")
    readiness.clear("never blocked")
    assert readiness.reason == "inference cannot be reached"
    readiness.clear("inference")
    assert readiness.reason is None


async def test_a_loop_that_hangs_is_not_alive() -> None:
    clock = VirtualClock()
    liveness = Liveness(clock)
    task = asyncio.create_task(liveness.beat())
    await clock.asleep()
    task.cancel()  # as if the loop hung
    await clock.advance(HANGING_SECONDS)
    assert liveness.reason is None
    await clock.advance(5)
    assert liveness.reason == "the event loop has not turned for 35 s"


async def test_a_loop_that_turns_is_alive() -> None:
    clock = VirtualClock()
    liveness = Liveness(clock)
    task = asyncio.create_task(liveness.beat())
    await clock.asleep()
    await clock.advance(10 * HANGING_SECONDS)
    assert liveness.reason is None
    task.cancel()


def test_a_service_that_reports_itself_stuck_is_not_alive_and_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    liveness = Liveness()
    for reason in ("a run does not end", "a run does not end", "a load does not end"):
        liveness.fail(reason)
    assert liveness.reason == "a run does not end; a load does not end"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "the service needs a restart: a run does not end"),
        ("ERROR", "the service needs a restart: a load does not end"),
    ]
