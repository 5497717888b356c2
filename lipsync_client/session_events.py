"""The events of a live session, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import grpc
import numpy as np
from numpy.typing import NDArray

from lipsync_client.requests import SESSION_FORMATS, SessionOutput
from shared_proto import compositing_pb2 as pb

Overload: TypeAlias = Literal["none", "larger groups", "half rate", "refusing"]
PushedSound: TypeAlias = NDArray[np.int16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Started:
    """The session runs. `width` and `height` are of its frames, in pixels."""

    session_id: str
    server_version: str
    width: int
    height: int
    output: SessionOutput
    look_ahead_ms: int
    """Sound from a frame's start on with which it can be made."""
    max_buffered_ms: int
    """Sound that the server takes ahead of the frames."""
    fps: float
    """Frames a second: 25."""
    idle_timeout_ms: int
    """A session without a message for so long, and with nothing to show, ends; 0: no limit. This client sees to the messages."""
    max_session_ms: int
    """The server ends a stream that lasts longer, and this client resumes; 0: no limit."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The connection was lost, and the session goes on: no frame is lost, none comes twice."""

    next_number: int
    """Number of the next frame."""
    seconds: float
    """Time without a connection, until the new one had started."""
    cause: str


@dataclass(frozen=True, slots=True)
class Frame:
    """40 ms of picture and sound."""

    picture: bytes = field(repr=False)
    """A JPEG file, BGR bytes of height x width x 3, or an access unit of H.264."""
    number: int
    """Grows by one a frame; with `idle="none"` also by one for each 40 ms without a frame."""
    pts_us: int
    """`number` x 40,000: the session's clock, in microseconds."""
    position: int
    """Place on the avatar's timeline."""
    next_position: int
    """Place from which the timeline goes on without a jump."""
    index: int
    """Index of the avatar's picture."""
    speech: bool
    """Some of the sound around it is not silence."""
    segment: int
    """0, 1, 2 ...; of an idle frame the last one that had a frame, -1 before the first."""
    audio_us: int
    """Start of its sound in the segment, in microseconds; -1: idle."""
    audio: PushedSound | None = field(repr=False)
    """Its sound, [samples] as they were pushed: 40 ms, less at a segment's end. None: idle."""
    key_frame: bool = False
    """H.264: a decoder can begin here, as `picture` has the parameter sets. Other pictures stand alone, and are not marked."""
    numerics: str = ""
    """Name of the way in which the avatar's mouths are computed, for `Resume`; "": not known yet."""


@dataclass(frozen=True, slots=True)
class SegmentEnded:
    """All frames of a segment have come."""

    segment: int
    frames: int
    audio_us: int
    """Its length in microseconds."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The answer to an interrupt: no frame of sound that was pushed before it follows."""

    segment: int
    """The first segment not shown to its end, else the last one; -1: there was none."""
    next_number: int
    audio_us: int
    """Sound of it that was shown, in microseconds."""


@dataclass(frozen=True, slots=True)
class AvatarSwitched:
    """The frames from `number` on show this avatar, or its new files. Sizes are in pixels."""

    avatar: str
    number: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SwitchFailed:
    """The session goes on with the avatar that it has. ABORTED: another switch took its place."""

    avatar: str
    code: grpc.StatusCode
    message: str


@dataclass(frozen=True, slots=True)
class Status:
    """Figures of the server. Counts begin anew on each replica; times are means a frame since the last status."""

    meets_realtime: bool
    """No frame was late in the last five seconds."""
    buffered_ms: int
    late_frames: int
    stalls: int
    clock_resets: int
    queue_ms: float
    audio_ms: float
    inference_ms: float
    composite_ms: float
    overload: Overload = "none"
    """Level to which the server degrades live sessions; each level includes those before it."""


@dataclass(frozen=True, slots=True)
class GoingAway:
    """The server ends the stream after the running segment, at the latest in `ends_in_ms`; the session then resumes elsewhere."""

    reason: Literal["draining", "session length"]
    ends_in_ms: int


SessionEvent: TypeAlias = (
    Started | Resumed | Frame | SegmentEnded | Interrupted | AvatarSwitched | SwitchFailed | Status | GoingAway
)

_OUTPUTS: dict[int, SessionOutput] = {number: output for output, number in SESSION_FORMATS.items()}
_LEVELS: dict[pb.Overload.ValueType, Overload] = {
    pb.OVERLOAD_NONE: "none",
    pb.OVERLOAD_LARGER_GROUPS: "larger groups",
    pb.OVERLOAD_HALF_RATE: "half rate",
    pb.OVERLOAD_REFUSING: "refusing",
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def read_started(message: pb.SessionStarted) -> Started:
    """Reads the first event of a stream."""
    return Started(
        session_id=message.session_id,
        server_version=message.server_version,
        width=message.width,
        height=message.height,
        output=_OUTPUTS.get(message.output_format, "jpeg"),
        look_ahead_ms=message.look_ahead_ms,
        max_buffered_ms=message.max_buffered_ms,
        fps=message.fps,
        idle_timeout_ms=message.idle_timeout_ms,
        max_session_ms=message.max_session_ms,
    )


def read_frame(message: pb.SessionFrame, audio: PushedSound | None, *, numerics: str) -> Frame:
    """Reads a frame and gives it its sound, and the numerics that were told with it or before."""
    return Frame(
        picture=message.picture,
        number=message.number,
        pts_us=message.pts_us,
        position=message.position,
        next_position=message.next_position,
        index=message.frame_index,
        speech=message.speech,
        segment=message.segment,
        audio_us=message.audio_us,
        audio=audio,
        key_frame=message.key_frame,
        numerics=numerics,
    )


def read_other(event: pb.SessionEvent) -> SessionEvent | None:
    """Reads the events that only tell. None for kinds that are not known yet."""
    match event.WhichOneof("event"):
        case "avatar_switched":
            switched = event.avatar_switched
            return AvatarSwitched(switched.model_id, switched.number, switched.width, switched.height)
        case "switch_failed":
            failed = event.switch_failed
            return SwitchFailed(failed.model_id, _CODES.get(failed.code, grpc.StatusCode.UNKNOWN), failed.message)
        case "status":
            return _status(event.status)
        case "going_away":
            going = event.going_away
            return GoingAway("draining" if going.reason == pb.GOING_AWAY_DRAINING else "session length", going.ends_in_ms)
    return None


def _status(status: pb.SessionStatus) -> Status:
    return Status(
        meets_realtime=status.meets_realtime,
        buffered_ms=status.buffered_ms,
        late_frames=status.late_frames,
        stalls=status.stalls,
        clock_resets=status.clock_resets,
        queue_ms=status.queue_ms,
        audio_ms=status.audio_ms,
        inference_ms=status.inference_ms,
        composite_ms=status.composite_ms,
        overload=_LEVELS.get(status.overload, "refusing"),
    )
