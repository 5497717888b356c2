"""How much callers may use: sessions at once, speech and frames a minute, loads an hour; by caller, by avatar and in all.

Only what begins is refused. A session that runs is never cut: its speech counts as it is said, and what it said too much keeps
later ones out for so long.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from service_kit.callers.caller import current
from service_kit.clock import Clock
from service_kit.errors import ResourceExhausted, Unavailable
from service_kit.limits.rates import Rates
from service_kit.limits.session_places import SessionPlaces
from service_kit.limits.settings import QuotaSection, QuotasSection
from service_kit.metrics import Metrics

# Nobody knows when a session ends.
SESSION_RETRY_MS = 2000
# Names of callers in metrics; those that come later share one.
MOST_NAMES, OTHERS = 200, "other"

_MINUTE_S, _HOUR_S = 60.0, 3600.0


@dataclass(frozen=True, slots=True)
class _Quota:
    """One section's limits, by key. `words` says of whom they are."""

    words: str
    sessions: SessionPlaces
    rates: Mapping[str, Rates]
    """By what they limit: speech, frames, loads."""

    @classmethod
    def of(cls, section: QuotaSection, words: str) -> _Quota:
        per_s = {
            "speech": (section.speech_seconds_per_minute, _MINUTE_S),
            "frames": (section.batch_frames_per_minute, _MINUTE_S),
            "loads": (section.loads_per_hour, _HOUR_S),
        }
        return cls(
            words,
            SessionPlaces(math.inf if section.sessions is None else section.sessions),
            {name: Rates(amount / seconds, amount) for name, (amount, seconds) in per_s.items() if amount is not None},
        )


class Quotas:
    """Counts and refuses. All methods are of the running code's caller; they raise ResourceExhausted with a time to come back."""

    def __init__(self, section: QuotasSection, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._by_caller = _Quota.of(section.per_caller, "this caller")
        self._by_avatar = _Quota.of(section.per_avatar, "this avatar")
        self._in_all = _Quota.of(section.in_all, "all callers together")
        self._names: set[str] = set()
        self._speech = metrics.counter("lipsync_caller_speech_seconds_total", "Speech of live sessions, by caller.", ("caller",))
        self._frames = metrics.counter("lipsync_caller_batch_frames_total", "Frames of batches, by caller.", ("caller",))
        self._refused = metrics.counter(
            "lipsync_quota_refused_total", "Requests beyond a quota, by caller and by what it limits.", ("caller", "limit")
        )

    @contextmanager
    def session(self, avatar_id: str, session_id: str) -> Iterator[None]:
        """Has a place for a stream of a session as long as the block lasts."""
        keys = [(quota.sessions, key) for quota, key in self._keys(avatar_id)]
        now_s = self._clock.now()
        session_id = f"{current.get().name}/{session_id}"  # callers choose their ids, perhaps those of others
        if not self._in_all.sessions.holds("", session_id, now_s):  # one that goes on was admitted before
            self._check("speech", avatar_id, 0.0)
        for quota, key in self._keys(avatar_id):
            if not quota.sessions.has_room(key, session_id, now_s):
                raise self._refusal("sessions", f"{quota.words} may hold no more sessions at once", SESSION_RETRY_MS)
        for places, key in keys:
            places.begin(key, session_id)
        is_over = True
        try:
            yield
        except (asyncio.CancelledError, Unavailable):  # the session may go on over another connection
            is_over = False
            raise
        finally:
            for places, key in keys:
                places.end(key, session_id, self._clock.now(), is_over=is_over)

    def spoken(self, caller: str, avatar_id: str, seconds: float) -> None:
        """Counts speech of a session that runs."""
        self._speech.labels(self._label(caller)).inc(seconds)
        for quota, key in self._keys(avatar_id, caller):
            if (rates := quota.rates.get("speech")) is not None:
                rates.charge(key, self._clock.now(), seconds)

    def batch(self, avatar_id: str, frames: int) -> None:
        """Counts the frames of a batch."""
        self._take("frames", avatar_id, frames)
        self._frames.labels(self._label(current.get().name)).inc(frames)

    def load(self, avatar_id: str) -> None:
        """Counts a load of an avatar."""
        self._take("loads", avatar_id, 1)

    def _take(self, limit: str, avatar_id: str, amount: float) -> None:
        self._check(limit, avatar_id, amount)
        for quota, key in self._keys(avatar_id):
            if (rates := quota.rates.get(limit)) is not None:
                rates.charge(key, self._clock.now(), amount)

    def _check(self, limit: str, avatar_id: str, amount: float) -> None:
        now_s = self._clock.now()
        for quota, key in self._keys(avatar_id):
            rates = quota.rates.get(limit)
            if rates is not None and (wait_s := rates.wait_s(key, now_s, amount)):
                raise self._refusal(limit, f"{quota.words} has used its {limit} for now", math.ceil(round(1000 * wait_s, 3)))

    def _keys(self, avatar_id: str, caller: str | None = None) -> Iterator[tuple[_Quota, str]]:
        """Yields the quotas that apply, each with its key. Where nobody is asked for a name, no caller has one."""
        name = current.get().name if caller is None else caller
        if name:
            yield self._by_caller, name
        yield self._by_avatar, avatar_id
        yield self._in_all, ""

    def _refusal(self, limit: str, words: str, retry_after_ms: int) -> ResourceExhausted:
        self._refused.labels(self._label(current.get().name), limit).inc()
        return ResourceExhausted(f"{words}; try again later", retry_after_ms=retry_after_ms)

    def _label(self, name: str) -> str:
        """Returns a name for metrics, whose number is bounded."""
        if name not in self._names:
            if len(self._names) >= MOST_NAMES:
                return OTHERS
            self._names.add(name)
        return name
