from __future__ import annotations

import asyncio

import pytest

from service_kit import heartbeat
from service_kit.heartbeat import HANGING_SECONDS, Heartbeat
from service_kit.readiness import Readiness


def test_ready_when_nothing_blocks() -> None:
    readiness = Readiness()
    told: list[str | None] = []
    readiness.subscribe(told.append)
    readiness.block("startup", "starting")
    readiness.block("inference", "inference cannot be reached")
    readiness.block("inference", "inference cannot be reached")
    readiness.clear("startup")
    readiness.clear("never blocked")
    readiness.clear("inference")
    assert told == [None, "starting", "starting; inference cannot be reached", "inference cannot be reached", None]
    assert readiness.reason is None


async def test_a_loop_that_hangs_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(heartbeat, "monotonic", lambda: now)
    beating = Heartbeat()
    task = asyncio.create_task(beating.beat())
    await asyncio.sleep(0)
    now += HANGING_SECONDS
    assert beating.reason() is None
    now += 5
    assert beating.reason() == "the event loop has not turned for 35 s"
    task.cancel()
