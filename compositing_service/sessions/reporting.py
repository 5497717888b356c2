"""Counts of a session, and the status that tells the client of them."""

from __future__ import annotations

from dataclasses import dataclass

from compositing_service.metrics import CompositingMetrics
from compositing_service.overload import Level, Overload
from compositing_service.sessions.live_avatar import LiveAvatar
from compositing_service.sessions.machine import Machine
from compositing_service.sessions.making import FrameMaking, Planned, StageTimes
from shared_proto import compositing_pb2 as pb

_LEAST_PERIOD_S = 1.0
_SILENCE_S = 30.0


@dataclass(eq=False, slots=True)
class Reporting:
    """Follows one session."""

    machine: Machine[LiveAvatar]
    making: FrameMaking
    started_s: float
    metrics: CompositingMetrics
    overload: Overload
    frames: int = 0
    _counted: tuple[int, int] = (0, 0)
    """Late frames and stalls that the metrics have."""
    _told: tuple[bool, int, int, int, Level] = (True, 0, 0, 0, pb.OVERLOAD_NONE)
    _told_s: float = 0.0
    _event_s: float = 0.0

    def __post_init__(self) -> None:
        self._event_s = self.started_s

    def sent(self, frame: Planned, now_s: float) -> None:
        """Notes a frame that leaves."""
        self.frames += 1
        kind = "idle" if frame.segment is None else "speech" if frame.speech else "silent"
        self.metrics.session_frames[kind].inc()
        if frame.frame == 0:
            self.metrics.session_first_frames.observe(now_s - frame.planned_s)
        _, late_frames, stalls, _, _ = self._figures(now_s)
        if (late_frames, stalls) != self._counted:
            self.metrics.session_late_frames.inc(late_frames - self._counted[0])
            self.metrics.session_stalls.inc(stalls - self._counted[1])
            self._counted = late_frames, stalls

    def encoded(self, ms: float) -> None:
        """Notes the time that a frame took to become a part of a video stream."""
        self.making.times.encoded_frames += 1
        self.making.times.encode_ms += ms

    def event_sent(self, now_s: float) -> None:
        """Notes that the client has heard of the session."""
        self._event_s = now_s

    def next_s(self, now_s: float) -> float:
        """Returns the time at which to ask for a status again."""
        if self._figures(now_s) != self._told or not self._told[0] or self._told[-1]:
            return max(now_s, self._told_s) + _LEAST_PERIOD_S
        return self._event_s + _SILENCE_S

    def status(self, now_s: float) -> pb.SessionEvent | None:
        """Returns a status if one is due now."""
        changed = self._figures(now_s) != self._told and now_s >= self._told_s + _LEAST_PERIOD_S
        if not changed and now_s < self._event_s + _SILENCE_S:
            return None
        self._told, self._told_s = self._figures(now_s), now_s
        meets_realtime, late_frames, stalls, resets, level = self._told
        times, self.making.times = self.making.times, StageTimes()
        frames = max(1, times.frames)
        return pb.SessionEvent(
            status=pb.SessionStatus(
                meets_realtime=meets_realtime,
                buffered_ms=self.machine.buffered_ms,
                late_frames=late_frames,
                stalls=stalls,
                clock_resets=resets,
                queue_ms=times.queue_ms / frames,
                audio_ms=times.audio_ms / frames,
                inference_ms=times.inference_ms / frames,
                composite_ms=times.composite_ms / frames + times.encode_ms / max(1, times.encoded_frames),
                overload=level,
            )
        )

    def info(self, session_id: str, avatar_id: str, now_s: float) -> pb.SessionInfo:
        """Describes the session to an operator."""
        meets_realtime, late_frames, stalls, _, _ = self._figures(now_s)
        return pb.SessionInfo(
            session_id=session_id,
            model_id=avatar_id,
            running_ms=round((now_s - self.started_s) * 1000),
            speech_ms=self.machine.speech_us // 1000,
            frames=self.frames,
            late_frames=late_frames,
            stalls=stalls,
            buffered_ms=self.machine.buffered_ms,
            speaking=not self.machine.has_nothing_to_show,
            meets_realtime=meets_realtime,
        )

    def _figures(self, now_s: float) -> tuple[bool, int, int, int, Level]:
        slots, level = self.machine.slots, self.overload.level
        if slots is None:
            return True, 0, self.machine.stalls, 0, level
        return slots.meets_realtime(now_s), slots.late_frames, self.machine.stalls, slots.resets, level
