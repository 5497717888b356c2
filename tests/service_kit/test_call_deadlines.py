from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from service_kit.deadline import Deadline, within_deadline
from service_kit.errors import DeadlineExceeded


class Call:
    def __init__(self, remaining_s: float | None) -> None:
        self.remaining_s = remaining_s

    def time_remaining(self) -> float | None:
        return self.remaining_s


@pytest.mark.parametrize(
    ("remaining_s", "limit_s", "least_s", "most_s"),
    [
        pytest.param(None, 5, 3, 5, id="no-deadline"),
        pytest.param(1e12, 5, 3, 5, id="centuries"),
        pytest.param(100, 5, 3, 5, id="limit-first"),
        pytest.param(2, 5, 1, 1.96, id="callers-less-a-margin"),
        pytest.param(0.1, 5, 0.0, 0.091, id="margin-is-a-share-of-little-time"),
        pytest.param(0, 5, 0, 0, id="over"),
        pytest.param(-3, 5, 0, 0, id="long-over"),
    ],
)
def test_a_deadline_leaves_time_for_the_answer(remaining_s: float | None, limit_s: float, least_s: float, most_s: float) -> None:
    assert least_s <= Deadline.of_call(Call(remaining_s), limit_s=limit_s).remaining_s() <= most_s


async def test_only_the_deadlines_own_end_is_told_as_such() -> None:
    with pytest.raises(DeadlineExceeded):
        async with within_deadline(Call(0), limit_s=60):
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError, match="of a socket"):
        async with within_deadline(Call(None), limit_s=60):
            raise TimeoutError("of a socket")


async def test_a_caller_learns_the_reason_before_its_own_deadline_passes(start: Any) -> None:
    """The answer has 50 ms for its way, so on a busy machine one of several calls may miss it."""

    async def handler(request: bytes, context: Any) -> bytes:
        async with within_deadline(context, limit_s=60):
            await asyncio.Event().wait()
        return b""

    channel = await start(Rpc=handler)
    reasons = []
    for _ in range(8):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test.Test/Rpc")(b"", timeout=0.6)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        reasons.append(caught.value.details())
        if "ask for less" in str(reasons[-1]):
            break
    else:
        pytest.fail(f"no call was told why: {reasons}")
