"""Checks the first message of a session: finds every problem before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

from compositing_service.outputs import H264Output, JpegOutput, Output, SessionOutput
from compositing_service.request import RequestRules, check_model_id, read_output
from compositing_service.sessions.plan import Plan
from service_kit.errors import Problems
from shared_proto import compositing_pb2 as pb
from shared_proto.field_checks import check_enum, check_sound_format
from shared_proto.timing import EXACT_LOOK_AHEAD, SAMPLE_RATE_HZ, SHORTEST_LOOK_AHEAD

MOST_CUSHION_MS = 2000
# Frames that are planned ahead of the clock: enough to ask for several at once, few enough to keep in memory and to drop.
FRAMES_AHEAD = 8
FRAMES_AHEAD_UNPACED = 32

# A frame reads ten frames of sound before it; at other rates than 16 kHz the resampler wants two more.
_LEAD_FRAMES = 10
_LEAD_FRAMES_RESAMPLED = 12
_NUMERICS = re.compile(r"[\w.+:/-]{0,128}", re.ASCII)
# More than a session of a year reaches. The numbers of frames and segments that follow fit their fields.
_MOST_FRAMES = 2**30


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """A valid configuration."""

    avatar_id: str
    start_position: int
    encoding: pb.AudioEncoding.ValueType
    output: SessionOutput
    idle: pb.IdlePolicy.ValueType
    plan: Plan
    allow_half_rate: bool = False
    numerics: str = ""
    """The way in which the mouths of a resumed session were computed before; "": not known."""

    @property
    def pictures(self) -> Output:
        """The form in which each frame's picture is made."""
        return JpegOutput(self.output.quality) if isinstance(self.output, H264Output) else self.output


def read_config(message: pb.SessionConfig, rules: RequestRules) -> SessionConfig:
    """Checks a configuration. Raises InvalidRequest with all its problems."""
    problems = Problems()
    check_model_id(message.model_id, problems)
    if message.start_frame_idx < 0:
        problems.add("start_frame_idx", f"is {message.start_frame_idx}; a position on the timeline is 0 or more")
    check_sound_format(message.audio_encoding, message.sample_rate, problems.add)
    output = read_output(message, rules, problems)
    check_enum("pacing", message.pacing, pb.Pacing.DESCRIPTOR, problems.add)
    check_enum("idle", message.idle, pb.IdlePolicy.DESCRIPTOR, problems.add)
    look_ahead = message.look_ahead_frames or EXACT_LOOK_AHEAD
    if not SHORTEST_LOOK_AHEAD <= look_ahead <= EXACT_LOOK_AHEAD:
        allowed = f"{SHORTEST_LOOK_AHEAD} to {EXACT_LOOK_AHEAD}, or 0 for {EXACT_LOOK_AHEAD}, are allowed"
        problems.add("look_ahead_frames", f"is {look_ahead}; {allowed}")
    if not 0 <= message.cushion_ms <= MOST_CUSHION_MS:
        problems.add("cushion_ms", f"is {message.cushion_ms}; 0 to {MOST_CUSHION_MS} are allowed")
    rate = message.sample_rate or SAMPLE_RATE_HZ
    _check_resume(message.resume, rate, problems)
    problems.raise_if_any()
    in_real_time = message.pacing == pb.REALTIME
    plan = Plan(
        rate=rate,
        look_ahead=look_ahead,
        in_real_time=in_real_time,
        cushion_ms=message.cushion_ms,
        frames_ahead=FRAMES_AHEAD if in_real_time else FRAMES_AHEAD_UNPACED,
        first_number=message.resume.next_number,
        first_segment=message.resume.segment,
        first_frame=message.resume.first_frame,
        audio_start_frame=message.resume.audio_start_frame,
        is_resumed=message.HasField("resume"),
    )
    return SessionConfig(
        message.model_id,
        message.start_frame_idx,
        message.audio_encoding,
        output,
        message.idle,
        plan,
        allow_half_rate=message.allow_half_rate and in_real_time,
        numerics=message.resume.numerics,
    )


def _check_resume(resume: pb.SessionResume, rate: int, problems: Problems) -> None:
    for field in ("next_number", "segment", "audio_start_frame", "first_frame"):
        if (value := getattr(resume, field)) < 0:
            problems.add(f"resume.{field}", f"is {value}; send 0 or more")
        elif value > _MOST_FRAMES:
            problems.add(f"resume.{field}", f"is {value}, beyond what a session reaches: {_MOST_FRAMES}")
    if not _NUMERICS.fullmatch(resume.numerics):
        problems.add("resume.numerics", "is no name that came with a frame")
    lead = _LEAD_FRAMES if rate == SAMPLE_RATE_HZ else _LEAD_FRAMES_RESAMPLED
    latest = max(0, resume.first_frame - lead)
    if resume.audio_start_frame > latest:
        problems.add(
            "resume.audio_start_frame",
            f"is {resume.audio_start_frame}; frame {resume.first_frame} needs the sound from frame {latest} on, or earlier",
        )
