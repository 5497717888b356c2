"""Builds the events that a session sends."""

from __future__ import annotations

from avatar_kit.avatar import Avatar
from compositing_service.backgrounds.composer import Pieces
from compositing_service.sessions.config import SessionConfig
from compositing_service.sessions.limits import SessionLimits
from compositing_service.sessions.machine import InterruptedAt
from compositing_service.sessions.making import Planned
from compositing_service.sessions.segment import Segment
from service_kit.errors import ServiceError
from service_kit.version import product_version
from shared_proto import compositing_pb2 as pb
from shared_proto.timing import FRAME_RATE
from shared_proto.wire import bytes_field_header

US_A_FRAME = 1_000_000 // FRAME_RATE
_MS_A_FRAME = 1000 // FRAME_RATE
# gRPC clients accept 4 MiB a message unless they ask for more.
_MOST_BYTES = (4 << 20) - (64 << 10)


def started(session_id: str, config: SessionConfig, avatar: Avatar, limits: SessionLimits) -> pb.SessionEvent:
    """Says that the session begins."""
    return pb.SessionEvent(
        started=pb.SessionStarted(
            session_id=session_id,
            server_version=product_version(),
            fps=FRAME_RATE,
            width=avatar.width,
            height=avatar.height,
            look_ahead_ms=_MS_A_FRAME * config.plan.look_ahead,
            max_buffered_ms=round(limits.max_buffered_s * 1000),
            idle_timeout_ms=round(limits.idle_timeout_s * 1000),
            max_session_ms=round(limits.max_session_s * 1000),
            output_format=config.output.wire_format,
        )
    )


def segment_ended(segment: Segment) -> pb.SessionEvent:
    """Says that all frames of a segment were sent."""
    return pb.SessionEvent(
        segment_ended=pb.SegmentEnded(segment=segment.number, frames=segment.frames, audio_us=segment.audio_us)
    )


def interrupted(answer: InterruptedAt) -> pb.SessionEvent:
    """Answers an interrupt."""
    return pb.SessionEvent(
        interrupted=pb.Interrupted(segment=answer.segment, next_number=answer.next_number, audio_us=answer.audio_us)
    )


def avatar_switched(avatar: Avatar, number: int) -> pb.SessionEvent:
    """Says which avatar the next frames show."""
    return pb.SessionEvent(
        avatar_switched=pb.AvatarSwitched(model_id=avatar.id, number=number, width=avatar.width, height=avatar.height)
    )


def switch_failed(avatar_id: str, error: ServiceError) -> pb.SessionEvent:
    """Says that the session goes on with its avatar."""
    code: int = error.code.value[0]
    return pb.SessionEvent(switch_failed=pb.SwitchFailed(model_id=avatar_id, code=code, message=error.message))


def going_away(reason: pb.GoingAwayReason.ValueType, ends_in_s: float) -> pb.SessionEvent:
    """Says that the stream ends soon."""
    return pb.SessionEvent(going_away=pb.GoingAway(reason=reason, ends_in_ms=round(ends_in_s * 1000)))


class FrameBatch:
    """Collects frames into one message, which stays below 4 MiB unless one frame alone is larger.

    Protobuf would copy the pictures when they are set and when they are serialised; this copies them once.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes | memoryview] = []
        self._bytes = 0

    def __len__(self) -> int:
        return self._bytes

    def is_full(self, picture: Pieces) -> bool:
        """Tells if the picture does not fit beside those that are there."""
        return bool(self._bytes) and self._bytes + sum(map(len, picture)) > _MOST_BYTES

    def add(self, frame: Planned, picture: Pieces, *, index: int, key_frame: bool, numerics: str) -> None:
        """Appends a finished frame that shows the avatar's picture `index`; `numerics` if they are news."""
        nbytes = sum(map(len, picture))
        fields = pb.SessionFrame(
            number=frame.number,
            pts_us=US_A_FRAME * frame.number,
            position=frame.position,
            frame_index=index,
            speech=frame.speech,
            segment=frame.segment_number,
            audio_us=US_A_FRAME * frame.frame if frame.segment else -1,
            next_position=frame.next_position,
            key_frame=key_frame,
            numerics=numerics,
        ).SerializeToString()
        before = bytes_field_header(pb.SessionFrame.PICTURE_FIELD_NUMBER, nbytes)
        size = len(fields) + len(before) + nbytes
        header = bytes_field_header(pb.SessionFrames.FRAMES_FIELD_NUMBER, size)
        self._pieces += (header, fields, before, *picture)
        self._bytes += len(header) + size

    def take(self) -> bytes:
        """Returns the encoded event with the frames, and begins anew."""
        event = b"".join((bytes_field_header(pb.SessionEvent.FRAMES_FIELD_NUMBER, self._bytes), *self._pieces))
        self._pieces, self._bytes = [], 0
        return event
