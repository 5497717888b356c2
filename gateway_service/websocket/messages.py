"""Text messages of browsers, checked as a whole: a refusal names every problem. docs/websocket.md describes them."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, from_json

from gateway_service.identity.tickets import MAX_TICKET_CHARS
from lipsync_client import Resume, SessionOptions

# An error message must fit a browser's console, whatever was sent.
MOST_PROBLEMS, LONGEST_PROBLEM = 20, 300
# In characters. Texts to speak are the longest, as long as the settings allow.
LONGEST_TEXT = 128 << 10
# Shorter ones are checked in no time, whatever they hold.
SHORT_TEXT = 2 << 10
MOST_FIELDS = 40

Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=128)]
Position: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
Count: TypeAlias = Annotated[int, Field(ge=0, le=2**30)]
Pacing: TypeAlias = Literal["REALTIME", "AS_FAST_AS_POSSIBLE"]
Idle: TypeAlias = Literal["IDLE_AVATAR", "IDLE_REST", "IDLE_STORED", "IDLE_NONE"]

_PACINGS: dict[Pacing, Literal["realtime", "fast"]] = {"REALTIME": "realtime", "AS_FAST_AS_POSSIBLE": "fast"}
_IDLES: dict[Idle, Literal["avatar", "rest", "stored", "none"]] = {
    "IDLE_AVATAR": "avatar",
    "IDLE_REST": "rest",
    "IDLE_STORED": "stored",
    "IDLE_NONE": "none",
}
_QUALITIES: dict[str, Literal["low", "medium", "high"]] = {
    "QUALITY_LOW": "low",
    "QUALITY_MEDIUM": "medium",
    "QUALITY_HIGH": "high",
}


class InvalidMessage(Exception):
    """A message cannot be accepted. The text names every problem."""


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


class Empty(_Content):
    """The content of messages that only say something."""


class ResumeContent(_Content):
    """The place from which the session goes on."""

    next_number: Count
    segment: Count
    audio_start_frame: Count = 0
    first_frame: Count = 0


class Config(_Content):
    """The beginning of a session."""

    model_id: Name
    start_frame_idx: Position = 0
    sample_rate: Annotated[int, Field(ge=0, le=192_000)] = 0
    audio_encoding: Literal["PCM_FLOAT32", "PCM_INT16"] = "PCM_FLOAT32"
    jpeg_quality: Annotated[int, Field(ge=0, le=100)] = 0
    quality_preset: Literal["QUALITY_UNSET", "QUALITY_LOW", "QUALITY_MEDIUM", "QUALITY_HIGH"] = "QUALITY_UNSET"
    pacing: Pacing = "REALTIME"
    idle: Idle = "IDLE_AVATAR"
    look_ahead_frames: Annotated[int, Field(ge=0, le=12)] = 0
    cushion_ms: Annotated[int, Field(ge=0, le=2000)] = 0
    allow_half_rate: bool = False
    pictures: bool = True
    resume: ResumeContent | None = None
    ticket: Annotated[str, Field(max_length=MAX_TICKET_CHARS, repr=False)] = ""
    session_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}$")] = ""

    @property
    def rate(self) -> int:
        """Hz, of the sound that comes."""
        return self.sample_rate or 16_000

    @property
    def resumed(self) -> Resume | None:
        """The place to go on from, as the client takes it."""
        return Resume(**self.resume.model_dump()) if self.resume else None

    @property
    def options(self) -> SessionOptions:
        """The options of the session, as the client takes them."""
        return SessionOptions(
            start_frame=self.start_frame_idx,
            sample_rate=self.rate,
            quality=self.jpeg_quality or _QUALITIES.get(self.quality_preset),
            pacing=_PACINGS[self.pacing],
            idle=_IDLES[self.idle],
            look_ahead_frames=self.look_ahead_frames,
            cushion_ms=self.cushion_ms,
            allow_half_rate=self.allow_half_rate,
        )


class SwitchAvatar(_Content):
    """Another avatar."""

    model_id: Name
    start_frame_idx: Position = 0


class Speak(_Content):
    """Text to speak."""

    text: Annotated[str, Field(min_length=1)]
    voice: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+_-]{0,39}$")] | None = None
    words_per_minute: Annotated[int, Field(ge=80, le=450)] = 175
    resumed: bool = False
    """It is the segment that `resume` names, and goes on there."""


class TextMessage(_Content):
    """One text message: an object with one key."""

    config: Config | None = None
    end_of_segment: Empty | None = None
    interrupt: Empty | None = None
    switch_avatar: SwitchAvatar | None = None
    speak: Speak | None = None
    close: Empty | None = None

    @model_validator(mode="after")
    def _has_one_content(self) -> Self:
        if len([value for _, value in self if value is not None]) != 1:
            raise ValueError(f"send exactly one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def name(self) -> str:
        """The key that was sent."""
        return next(name for name, value in self if value is not None)


def read_text(text: str) -> TextMessage:
    """Reads a text message. Raises InvalidMessage with all its problems."""
    _check_size(text)
    try:
        message = TextMessage.model_validate_json(text)
    except ValidationError as error:
        problems = [_sentence(details) for details in error.errors(include_url=False, include_input=False)]
        more = len(problems) - MOST_PROBLEMS
        raise InvalidMessage("; ".join([*problems[:MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])])) from None
    if message.config:
        _check_config(message.config)
    return message


def _check_size(text: str) -> None:
    """Refuses what would keep the event loop for long: a mebibyte of unknown fields takes a second. Raises InvalidMessage."""
    if len(text) > LONGEST_TEXT:
        raise InvalidMessage(f"the message has {len(text)} characters; send at most {LONGEST_TEXT}")
    if len(text) <= SHORT_TEXT:
        return
    with suppress(ValueError):  # the check of the whole tells what it is
        if (fields := _fields(from_json(text))) > MOST_FIELDS:
            raise InvalidMessage(f"the message has {fields} fields; no message has more than {MOST_FIELDS}")


def _fields(value: object) -> int:
    return sum(1 + _fields(each) for each in value.values()) if isinstance(value, dict) else 0


def _check_config(config: Config) -> None:
    """Finds what fields say together. Raises InvalidMessage."""
    problems = []
    if config.sample_rate and config.sample_rate < 8000:
        problems.append(f"config.sample_rate: {config.sample_rate} Hz is not supported: send 8000 to 192000, or 0 for 16000")
    if config.look_ahead_frames and config.look_ahead_frames < 6:
        problems.append(f"config.look_ahead_frames: is {config.look_ahead_frames}; 6 to 12, or 0 for 12, are allowed")
    if config.jpeg_quality and config.quality_preset != "QUALITY_UNSET":
        problems.append("config.jpeg_quality: is given together with quality_preset; send one of them")
    if problems:
        raise InvalidMessage("; ".join(problems))


def _sentence(details: ErrorDetails) -> str:
    place = ".".join(str(part) for part in details["loc"])[:100]
    text = "is not known" if details["type"] == "extra_forbidden" else details["msg"].removeprefix("Value error, ")
    return f"{place}: {text}"[:LONGEST_PROBLEM] if place else text[:LONGEST_PROBLEM]
