"""Limits of callers: sessions at once, speech and frames a minute, loads an hour; by caller, by avatar and in all.

Only what begins is refused. A session that runs is never cut: its speech counts as it is said, and what it said too much keeps
later ones out for so long.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from service_kit.callers.caller import Caller, current
from service_kit.clock import Clock
from service_kit.errors import ResourceExhausted, Unavailable
from service_kit.limits.settings import QuotaSection, QuotasSection, limits_of
from service_kit.limits.store import LEASE_S, Refusal, Store, Stream, Use
from service_kit.metrics import Metrics

# Nobody knows when a session ends.
SESSION_RETRY_MS = 2000
# Names of callers in metrics; those that come later share one.
MOST_NAMES, OTHERS = 200, "other"
# Speech is counted this often.
CHARGE_S = 1.0
# Places are renewed often enough to outlast a store that is lost for a while.
RENEW_S = LEASE_S / 6

_SESSIONS = "sessions"
# By what they limit: the setting, and the seconds that it is for.
_RATES = {
    "speech": ("speech_seconds_per_minute", 60.0),
    "frames": ("batch_frames_per_minute", 60.0),
    "loads": ("loads_per_hour", 3600.0),
}


@dataclass(frozen=True, slots=True)
class _Quota:
    """The limits of one caller, of one avatar or of all. `words` says of whom they are."""

    words: str
    key: str
    section: QuotaSection

    def use(self, limit: str, amount: float) -> Use | None:
        """Returns the use of a rate; None where there is no limit."""
        setting, seconds = _RATES[limit]
        most = getattr(self.section, setting)
        return None if most is None else Use(f"{self.key}:{limit}", most / seconds, most, amount)


class Quotas:
    """Counts for the running code's caller. What refuses raises ResourceExhausted, with a time to come back."""

    def __init__(self, section: QuotasSection, store: Store, clock: Clock, metrics: Metrics) -> None:
        self._section = section
        self._store = store
        self._clock = clock
        self._running: set[Stream] = set()
        self._spoken: dict[str, Use] = {}
        """Speech that the store has not counted yet, by key."""
        self._names: set[str] = set()
        self._speech = metrics.counter("lipsync_caller_speech_seconds_total", "Speech of live sessions, by caller.", ("caller",))
        self._frames = metrics.counter("lipsync_caller_batch_frames_total", "Frames of batches, by caller.", ("caller",))
        self._refused = metrics.counter(
            "lipsync_quota_refused_total", "Requests beyond a quota, by caller and by what it limits.", ("caller", "limit")
        )

    @asynccontextmanager
    async def session(self, avatar_id: str, session_id: str) -> AsyncIterator[None]:
        """Has a place for a stream of a session as long as the block lasts."""
        caller = current.get()
        quotas = list(self._quotas(caller, avatar_id))
        # Callers choose their ids, perhaps those of others. Names and ids may have slashes, and no space.
        keys = tuple(f"{quota.key}:{_SESSIONS}" for quota in quotas)
        stream = Stream(f"{caller.name} {session_id}", uuid.uuid4().hex, keys)
        most = [quota.section.sessions for quota in quotas]
        if refusal := await self._store.begin(stream, most, _uses(quotas, "speech", 0.0)):
            raise self._refusal(refusal, quotas)
        self._running.add(stream)
        is_over = True
        try:
            yield
        except (asyncio.CancelledError, Unavailable):  # the session may go on over another connection
            is_over = False
            raise
        finally:
            self._running.remove(stream)
            await self._charge()
            await self._store.end(stream, is_over=is_over)

    def spoken(self, caller: Caller, avatar_id: str, seconds: float) -> None:
        """Notes speech of a session that runs. It counts when the session ends, CHARGE_S later at most."""
        self._speech.labels(self._label(caller.name)).inc(seconds)
        for use in _uses(self._quotas(caller, avatar_id), "speech", seconds):
            noted = self._spoken.get(use.key)
            self._spoken[use.key] = replace(use, amount=use.amount + noted.amount) if noted else use

    async def batch(self, avatar_id: str, frames: int) -> None:
        """Counts the frames of a batch."""
        await self._take("frames", avatar_id, frames)
        self._frames.labels(self._label(current.get().name)).inc(frames)

    async def load(self, avatar_id: str) -> None:
        """Counts a load of an avatar."""
        await self._take("loads", avatar_id, 1)

    async def follow(self) -> None:
        """Counts speech, and renews the places of sessions that run, without end. Without any, it still tries the store."""
        renew_s = self._clock.now() + RENEW_S
        while True:
            await self._clock.sleep(CHARGE_S)
            await self._charge()
            if self._clock.now() >= renew_s:
                renew_s = self._clock.now() + RENEW_S
                await self._store.renew(list(self._running))

    async def _charge(self) -> None:
        """Counts what was spoken since the last time."""
        if self._spoken:
            uses, self._spoken = list(self._spoken.values()), {}
            await self._store.charge(uses)

    async def _take(self, limit: str, avatar_id: str, amount: float) -> None:
        quotas = list(self._quotas(current.get(), avatar_id))
        uses = _uses(quotas, limit, amount)
        if uses and (refusal := await self._store.take(uses)):
            raise self._refusal(refusal, quotas)

    def _quotas(self, caller: Caller, avatar_id: str) -> Iterator[_Quota]:
        """Yields the quotas that apply. Where nobody is asked for a name, no caller has one."""
        if caller.name:
            yield _Quota("this caller", f"caller:{caller.name}", self._of_caller(caller))
        yield _Quota("this avatar", f"avatar:{avatar_id}", self._section.per_avatar)
        yield _Quota("all callers together", "all", self._section.in_all)

    def _of_caller(self, caller: Caller) -> QuotaSection:
        """Returns a caller's limits: the defaults, then those of its name, then those of its credential."""
        named = next((each for each in self._section.callers if fnmatchcase(caller.name, each.names)), None)
        changes = dict(limits_of(named) if named else ()) | dict(caller.limits)
        return self._section.per_caller.model_copy(update=changes) if changes else self._section.per_caller

    def _refusal(self, refusal: Refusal, quotas: list[_Quota]) -> ResourceExhausted:
        key, _, limit = refusal.key.rpartition(":")
        words = next(quota.words for quota in quotas if quota.key == key)
        self._refused.labels(self._label(current.get().name), limit).inc()
        if refusal.wait_s is None:
            return ResourceExhausted(
                f"{words} may hold no more sessions at once; try again later", retry_after_ms=SESSION_RETRY_MS
            )
        retry_after_ms = math.ceil(round(1000 * refusal.wait_s, 3))
        return ResourceExhausted(f"{words} has used its {limit} for now; try again later", retry_after_ms=retry_after_ms)

    def _label(self, name: str) -> str:
        """Returns a name for metrics, whose number is bounded."""
        if name not in self._names:
            if len(self._names) >= MOST_NAMES:
                return OTHERS
            self._names.add(name)
        return name


def _uses(quotas: Iterator[_Quota] | list[_Quota], limit: str, amount: float) -> list[Use]:
    return [use for quota in quotas if (use := quota.use(limit, amount)) is not None]
