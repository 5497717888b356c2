"""The options of a live session, and the first message of its streams."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from lipsync_client.cutting import LEAD_IN_FRAMES, RESAMPLER_FRAMES, check_sample_rate
from lipsync_client.requests import PRESETS, SESSION_FORMATS, PictureOptions, SessionOutput, check_output
from shared_proto import compositing_pb2 as pb
from shared_proto.timing import SAMPLE_RATE_HZ

Pacing = Literal["realtime", "fast"]
"""25 frames a second on a clock with idle ones while nobody speaks, or frames of speech alone as fast as they are made."""

Idle = Literal["avatar", "rest", "stored", "none"]
"""The picture while nobody speaks: as the avatar's own setting says, with the mouth of silence, as it is stored, or none."""

_PACINGS = {"realtime": pb.REALTIME, "fast": pb.AS_FAST_AS_POSSIBLE}
_IDLES = {"avatar": pb.IDLE_AVATAR, "rest": pb.IDLE_REST, "stored": pb.IDLE_STORED, "none": pb.IDLE_NONE}


class SessionOptions(PictureOptions, total=False):
    """Options of a live session."""

    sample_rate: int
    """Hz, 8000 to 192000; 16000 by default."""
    output: SessionOutput
    """JPEG by default."""
    pacing: Pacing
    """In real time by default."""
    idle: Idle
    """The picture while nobody speaks; by default the avatar's own setting decides."""
    look_ahead_frames: int
    """6 to 12; 12, the default, is exact; less has less delay, 40 ms for each frame."""
    cushion_ms: int
    """0 to 2000; 0 by default. In real time so much more sound must be there before a segment begins, or goes on once stalled."""
    allow_half_rate: bool
    """Lets a server that is overloaded repeat every second mouth, before it refuses sessions. False by default."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Place at which a session goes on that was held by another client, or in another process.

    Give `start_frame` with it: the `next_position` of the last frame that came.
    """

    next_number: int
    """Number of the last frame that came, + 1."""
    segment: int
    """The segment to go on in, else the next one."""
    audio_start_frame: int = 0
    """Frame of the segment at which the sound begins that is pushed now: `first_frame` - 10, - 12 at other rates than 16 kHz, or
    less, at least 0."""
    first_frame: int = 0
    """Frame of the segment that is wanted first; 0: none of it has come."""
    numerics: str = ""
    """The one of the last frame that came: replicas that compute in the same way are preferred."""


@dataclass(frozen=True, slots=True)
class StreamStart:
    """Beginning of a stream of the session, beside the options."""

    avatar: str
    position: int
    """Position of its first frame, on the avatar's timeline."""
    resume: pb.SessionResume | None
    """None: a new session."""


@dataclass(frozen=True, slots=True)
class SessionSetup:
    """The options of one session. The server checks them; only those that the wire cannot carry are refused here."""

    avatar: str
    options: SessionOptions = field(default_factory=SessionOptions)
    resume: Resume | None = None
    """Place in a session that another client began."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        check_output(self.options.get("quality"), self.options.get("output", "jpeg"), SESSION_FORMATS)
        check_sample_rate(self.sample_rate)
        for name, value, known in (
            ("pacing", self.options.get("pacing", "realtime"), _PACINGS),
            ("idle", self.options.get("idle", "avatar"), _IDLES),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        if self.resume:
            self._check(self.resume)

    @property
    def sample_rate(self) -> int:
        """Hz, of the sound that is pushed."""
        return self.options.get("sample_rate", SAMPLE_RATE_HZ)

    def _check(self, resume: Resume) -> None:
        """Raises ValueError for sound that would begin too late: frames would be made of less than they need."""
        for name, value in asdict(resume).items():
            if name != "numerics" and value < 0:
                raise ValueError(f"{name} is {value}; expected 0 or more")
        lead_in = LEAD_IN_FRAMES + (0 if self.sample_rate == SAMPLE_RATE_HZ else RESAMPLER_FRAMES)
        latest = max(0, resume.first_frame - lead_in)
        if resume.audio_start_frame > latest:
            needed = f"frame {resume.first_frame} needs the sound from frame {latest} on"
            raise ValueError(f"audio_start_frame is {resume.audio_start_frame}; {needed}")

    def message(self, start: StreamStart) -> pb.SessionConfig:
        """Builds the first message of a stream. Raises ValueError for a number over 32 bits."""
        options = self.options
        quality = options.get("quality")
        return pb.SessionConfig(
            model_id=start.avatar,
            start_frame_idx=start.position,
            sample_rate=self.sample_rate,
            audio_encoding=pb.PCM_FLOAT32,
            jpeg_quality=quality if isinstance(quality, int) else 0,
            quality_preset=PRESETS[quality] if isinstance(quality, str) else pb.QUALITY_UNSET,
            output_format=SESSION_FORMATS[options.get("output", "jpeg")],
            pacing=_PACINGS[options.get("pacing", "realtime")],
            idle=_IDLES[options.get("idle", "avatar")],
            look_ahead_frames=options.get("look_ahead_frames", 0),
            cushion_ms=options.get("cushion_ms", 0),
            allow_half_rate=options.get("allow_half_rate", False),
            resume=start.resume,
        )
