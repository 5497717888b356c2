"""A request's deadline. gRPC in Python does not pass it to outgoing calls, so code passes this object along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import DeadlineExceeded

# Taken off the caller's time, so that our own answer, with its reason, still reaches the caller.
_MARGIN_S = 0.05
_MARGIN_SHARE = 0.1
# gRPC reports centuries for "no deadline".
_NO_DEADLINE_S = 365 * 86_400.0


class HasTimeRemaining(Protocol):
    """The part of a gRPC servicer context that a deadline needs."""

    def time_remaining(self) -> float | None:
        """Returns the seconds that the caller still waits."""


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A moment on a clock."""

    at_s: float
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False, compare=False)

    @classmethod
    def after(cls, seconds: float, *, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """Returns the moment `seconds` from now."""
        return cls(clock.now() + seconds, clock)

    @classmethod
    def of_call(cls, context: HasTimeRemaining, *, limit_s: float) -> Deadline:
        """Returns the caller's deadline less a margin for the way back, at most `limit_s` from now."""
        remaining = context.time_remaining()
        if remaining is None or remaining > _NO_DEADLINE_S:
            return cls.after(limit_s)
        return cls.after(min(limit_s, max(0.0, remaining - min(_MARGIN_S, remaining * _MARGIN_SHARE))))

    def remaining_s(self) -> float:
        """Returns the seconds left, 0 when it has passed."""
        return max(0.0, self.at_s - self.clock.now())

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Ends its block when the moment has come. Raises DeadlineExceeded then."""
        try:
            async with asyncio.timeout(self.remaining_s()) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():  # of the block itself
                raise
            raise DeadlineExceeded("the time for this request is over; allow more time or ask for less") from error


@asynccontextmanager
async def within_deadline(context: HasTimeRemaining, *, limit_s: float) -> AsyncIterator[Deadline]:
    """Ends its block in time for our own answer to reach the caller. Raises DeadlineExceeded then."""
    deadline = Deadline.of_call(context, limit_s=limit_s)
    async with deadline.kept():
        yield deadline
