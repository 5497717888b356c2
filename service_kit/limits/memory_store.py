"""The state of limits in this process's memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from service_kit.clock import Clock
from service_kit.limits.rates import DueTimes
from service_kit.limits.store import KEPT_S, LEASE_S, Refusal, Stream, Use


@dataclass(slots=True)
class _Held:
    """A session under one key."""

    streams: dict[str, float] = field(default_factory=dict)
    """The end of each lease, by the stream's id."""
    kept_until_s: float = float("-inf")
    """The place of a session without a stream is kept until then."""

    def forget(self, now_s: float) -> bool:
        """Forgets what is over. Returns True when nothing is left."""
        for stream in [each for each, until_s in self.streams.items() if until_s <= now_s]:
            del self.streams[stream]
        return not self.streams and self.kept_until_s <= now_s

    @property
    def places(self) -> int:
        """The places that it needs."""
        return max(1, len(self.streams) - 1)


class MemoryStore:
    """Counts for this process alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rates = DueTimes()
        self._held: dict[str, dict[str, _Held]] = {}
        self._kept: deque[tuple[float, Stream]] = deque()
        """Ended streams whose sessions keep their places, and until when; the first one to be over in front."""

    def __len__(self) -> int:
        """Returns the number of keys with sessions."""
        return len(self._held)

    async def take(self, uses: Sequence[Use]) -> Refusal | None:
        """Counts all uses, or none."""
        refusal = self._beyond(uses)
        if refusal is None:
            await self.charge(uses)
        return refusal

    async def charge(self, uses: Sequence[Use]) -> None:
        """Counts what was used already."""
        for use in uses:
            self._rates.charge(use.key, self._clock.now(), use.amount, per_second=use.per_second)

    async def begin(self, stream: Stream, most: Sequence[int | None], uses: Sequence[Use]) -> Refusal | None:
        """Gives a stream its places."""
        self._forget_kept()
        for key in stream.keys:
            self._forget(key)
        if stream.session not in self._held.get(stream.keys[-1], {}) and (refusal := self._beyond(uses)):
            return refusal
        for key, limit in zip(stream.keys, most, strict=True):
            if limit is not None and self._taken_with(key, stream.session) > limit:
                return Refusal(key)
        await self.renew([stream])
        for held in self._of(stream):
            held.kept_until_s = float("-inf")
        return None

    async def renew(self, streams: Sequence[Stream]) -> None:
        """Keeps the places of streams."""
        until_s = self._clock.now() + LEASE_S
        for stream in streams:
            for held in self._of(stream):
                held.streams[stream.id] = until_s

    async def end(self, stream: Stream, *, is_over: bool) -> None:
        """Ends a stream."""
        kept_until_s = float("-inf") if is_over else self._clock.now() + KEPT_S
        for held in self._of(stream):
            held.streams.pop(stream.id, None)
            held.kept_until_s = kept_until_s
        if not is_over:
            self._kept.append((kept_until_s, stream))
        self._forget_kept()
        for key in stream.keys:
            self._forget(key)

    def _beyond(self, uses: Sequence[Use]) -> Refusal | None:
        """Returns the first use that is beyond its limit."""
        for use in uses:
            limit = {"per_second": use.per_second, "burst": use.burst}
            if wait_s := self._rates.wait_s(use.key, self._clock.now(), use.amount, **limit):
                return Refusal(use.key, wait_s)
        return None

    def _taken_with(self, key: str, session: str) -> int:
        """Returns the places that would be taken with one more stream of a session."""
        others = sum(held.places for name, held in self._held.get(key, {}).items() if name != session)
        held = self._held.get(key, {}).get(session)
        return others + max(1, len(held.streams) if held else 0)

    def _of(self, stream: Stream) -> Iterator[_Held]:
        for key in stream.keys:
            yield self._held.setdefault(key, {}).setdefault(stream.session, _Held())

    def _forget(self, key: str) -> None:
        sessions = self._held.get(key, {})
        for name in [name for name, held in sessions.items() if held.forget(self._clock.now())]:
            del sessions[name]
        if not sessions:
            self._held.pop(key, None)

    def _forget_kept(self) -> None:
        """Forgets what was kept long enough, also under keys that nobody asks for any more."""
        while self._kept and self._kept[0][0] <= self._clock.now():
            _, stream = self._kept.popleft()
            for key in stream.keys:
                self._forget(key)
