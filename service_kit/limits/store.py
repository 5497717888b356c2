"""The state of limits: rates and places of sessions, in one process's memory or in a store that several share.

All methods decide at one moment over all of their keys: a refusal counts nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

# As long as clients take to go on with a session over another connection, and to notice that the first one is lost.
KEPT_S = 15.0
# A place is free so long after the last renewal: the process that held it may be gone.
LEASE_S = 30.0


@dataclass(frozen=True, slots=True)
class Use:
    """An amount of something of which a key may use `per_second` in the long run, and `burst` at once after a pause."""

    key: str
    per_second: float
    burst: float
    amount: float


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of a session, with a place under each of its keys. `id` has 32 characters and is its own alone.

    A session that comes back may find its lost stream still there, so two streams of a session need one place; each further one
    needs another.
    """

    session: str
    id: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The key that has no more. `wait_s` tells when it will have; None: nobody knows when a session ends."""

    key: str
    wait_s: float | None = None


class Store(Protocol):
    """Keeps the state. A store that can be lost lets everything through meanwhile; no method raises for that."""

    async def take(self, uses: Sequence[Use]) -> Refusal | None:
        """Counts all uses, or none. More than the burst is allowed where all of it is there: it would never be otherwise."""

    async def charge(self, uses: Sequence[Use]) -> None:
        """Counts what was used already, also beyond the limits."""

    async def begin(self, stream: Stream, most: Sequence[int | None], uses: Sequence[Use]) -> Refusal | None:
        """Gives a stream its places until LEASE_S from now, at most `most` sessions under each of its keys; None: any number.

        `uses` are looked at and not counted, and do not matter for a session that has a place under the last key already.
        """

    async def renew(self, streams: Sequence[Stream]) -> None:
        """Keeps the places of streams that run for LEASE_S more, and gives them back to those that have lost them."""

    async def end(self, stream: Stream, *, is_over: bool) -> None:
        """Ends a stream. The session's places are free when it `is_over`, else KEPT_S later."""
