"""The ends of a session that time brings: its length, the drain of the service, and a client that says nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from compositing_service.sessions import events
from compositing_service.sessions.limits import SessionLimits
from compositing_service.sessions.live_avatar import LiveAvatar
from compositing_service.sessions.machine import Machine
from compositing_service.sessions.tables import Input
from service_kit.errors import DeadlineExceeded, ServiceError
from shared_proto import compositing_pb2 as pb

# A session ends by itself, between two frames, so long before it is cut off.
_CUT_S = 0.05


@dataclass(eq=False, slots=True)
class Lifetime:
    """The ends of one session that began at `last_sign_s`. Times are in seconds on the session's clock."""

    machine: Machine[LiveAvatar]
    limits: SessionLimits
    note: Callable[[pb.SessionEvent], None]
    """Lets an event leave before the next frame."""
    last_sign_s: float
    """When the client sent its last message."""
    cut_in: Callable[[float], None]
    """Called when it begins to leave: ends it after so many seconds, if something holds it up that long."""
    end: ServiceError | None = None
    """The error with which a session that leaves will end."""
    _ends_at_s: float = float("inf")
    _leave_at_s: float = field(init=False)
    _leaving_s: float = field(init=False)

    def __post_init__(self) -> None:
        most_s = self.limits.max_session_s
        # Of a short session at least the first half is without a warning.
        self._leaving_s = min(self.limits.leaving_s, most_s / 2)
        self._leave_at_s = self.last_sign_s + most_s - self._leaving_s if most_s else float("inf")

    def leave(self, reason: pb.GoingAwayReason.ValueType, error: ServiceError, now_s: float, *, within_s: float) -> None:
        """Ends it after the running segment, or when the time for that is over, with `error`."""
        if self.end is None:
            self.end = error
            self._ends_at_s = now_s + max(0.0, within_s - _CUT_S)
            self.cut_in(max(within_s, _CUT_S))
            self.machine.leave()
            self.note(events.going_away(reason, within_s))

    def check(self, now_s: float) -> None:
        """Begins to leave when its time has come. Raises ServiceError when its end has, or no message has come for too long."""
        self.check_length(now_s)
        limits, machine = self.limits, self.machine
        if machine.planned or machine.input is Input.CLOSED:
            self.last_sign_s = now_s
        if limits.idle_timeout_s and now_s >= self.last_sign_s + limits.idle_timeout_s:
            raise DeadlineExceeded(f"no message came for {limits.idle_timeout_s:g} s")

    def check_length(self, now_s: float) -> None:
        """Begins to leave when its time has come. Raises ServiceError when its end has."""
        if now_s >= self._leave_at_s and self.end is None:
            error = DeadlineExceeded("the session has lasted for as long as one may")
            within_s = max(0.0, self._leave_at_s + self._leaving_s - now_s)
            self.leave(pb.GOING_AWAY_SESSION_LENGTH, error, now_s, within_s=within_s)
        if now_s >= self._ends_at_s and self.end:
            raise self.end

    def next_check_s(self) -> float:
        """Returns the time at which `check` may have something to do."""
        at_s = self._leave_at_s if self.end is None else self._ends_at_s
        if not self.machine.planned and self.limits.idle_timeout_s:
            at_s = min(at_s, self.last_sign_s + self.limits.idle_timeout_s)
        return at_s
