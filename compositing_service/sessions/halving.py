"""Chooses which frames of a session have a mouth of their own while it is at half rate, and keeps the mouth to repeat."""

from __future__ import annotations

from dataclasses import dataclass

from compositing_service.backgrounds.composer import Mouth
from compositing_service.overload import Overload
from compositing_service.sessions.frames import PlannedFrame
from compositing_service.sessions.live_avatar import LiveAvatar
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2


@dataclass(eq=False, slots=True)
class Halving:
    """Follows the frames of one session. Within a segment, no two frames that follow each other repeat a mouth."""

    is_allowed: bool
    overload: Overload
    _last: tuple[PlannedFrame[LiveAvatar], Mouth] | None = None
    """The last frame, if it had a mouth of its own, and that mouth."""

    @property
    def rate(self) -> inference_pb2.MouthRate.ValueType:
        """Rate that the next order asks for."""
        if not self.is_allowed:
            return inference_pb2.MOUTH_RATE_FULL
        if self.overload.level >= pb.OVERLOAD_HALF_RATE:
            return inference_pb2.MOUTH_RATE_HALVED
        return inference_pb2.MOUTH_RATE_MAY_HALVE

    def give_up(self) -> bool:
        """Asks for every mouth from now on: an older replica knows no half rate. Returns False if that was so already."""
        was_halved, self.is_allowed = self.rate == inference_pb2.MOUTH_RATE_HALVED, False
        return was_halved

    def mouth_before(self, frame: PlannedFrame[LiveAvatar]) -> Mouth | None:
        """Returns the mouth that this frame repeats; None: it has one of its own."""
        last, self._last = self._last, None
        if last is None or self.rate != inference_pb2.MOUTH_RATE_HALVED:
            return None
        before, mouth = last
        follows = before.segment is frame.segment and before.frame == frame.frame - 1 and before.shown is frame.shown
        if not follows:
            return None
        frame.speech = before.speech  # the rows of this frame may not be known yet
        return mouth

    def made(self, frame: PlannedFrame[LiveAvatar], mouth: Mouth) -> None:
        """Notes that the last frame of an order had this mouth of its own."""
        self._last = frame, mouth.copy()  # the message that it came in is larger
