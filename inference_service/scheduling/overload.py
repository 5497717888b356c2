"""Says how far live sessions are degraded before new ones are refused. Pure policy but for its clock."""

from __future__ import annotations

import math

from inference_service.scheduling.admission import MOST_BEHIND, RESERVE, Admission
from service_kit.clock import Clock
from shared_proto import inference_pb2 as pb

# Shares of the capacity that sessions at full rate ask for, and of their frames that come too late, from which a level holds.
_LARGER_GROUPS = 0.7, MOST_BEHIND / 5
_HALF_RATE = 1 - RESERVE, MOST_BEHIND / 2
# A level holds for so long after its cause, so that sessions do not go to and fro.
HOLD_S = 10.0
_JUDGE_S = 0.2


class Overload:
    """Follows one process. It rises at once, and falls when nothing has asked for its level for HOLD_S."""

    def __init__(self, admission: Admission, clock: Clock) -> None:
        self._admission = admission
        self._clock = clock
        self._level: pb.Overload.ValueType = pb.OVERLOAD_NONE
        self._asked_s = -math.inf  # when that level was asked for last
        self._judged_s = -math.inf

    @property
    def level(self) -> pb.Overload.ValueType:
        """The level that callers are told now."""
        now_s = self._clock.now()
        if now_s - self._judged_s >= _JUDGE_S:
            self._judged_s = now_s
            self._note(self._wanted(), now_s)
        return self._level

    def note_refused(self) -> None:
        """Notes that a session was refused."""
        self._note(pb.OVERLOAD_REFUSING, self._clock.now())

    def _note(self, wanted: pb.Overload.ValueType, now_s: float) -> None:
        if wanted >= self._level or now_s - self._asked_s >= HOLD_S:
            self._level, self._asked_s = wanted, now_s

    def _wanted(self) -> pb.Overload.ValueType:
        load, behind = self._admission.load, self._admission.share_behind
        if load > _HALF_RATE[0] or behind > _HALF_RATE[1]:
            return pb.OVERLOAD_HALF_RATE
        if load > _LARGER_GROUPS[0] or behind > _LARGER_GROUPS[1]:
            return pb.OVERLOAD_LARGER_GROUPS
        return pb.OVERLOAD_NONE
