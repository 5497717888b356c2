"""The states of a session: one table for the messages of the client, one for what is shown. docs/sessions.md shows both.

There is no other transition: a message without an entry breaks the protocol.
"""

from __future__ import annotations

from enum import StrEnum


class Input(StrEnum):
    """The place of the next message."""

    AWAITING_CONFIG = "awaiting config"
    BETWEEN_SEGMENTS = "between segments"
    IN_SEGMENT = "in a segment"
    CLOSED = "closed"


class Message(StrEnum):
    """A message of the client."""

    CONFIG = "config"
    SOUND = "sound"
    END_OF_SEGMENT = "end of segment"
    INTERRUPT = "interrupt"
    SWITCH_AVATAR = "switch avatar"
    REQUEST_KEY_FRAME = "request key frame"
    HALF_CLOSE = "half-close"


INPUT: dict[Input, dict[Message, Input]] = {
    Input.AWAITING_CONFIG: {Message.CONFIG: Input.BETWEEN_SEGMENTS},
    Input.BETWEEN_SEGMENTS: {
        Message.SOUND: Input.IN_SEGMENT,
        Message.END_OF_SEGMENT: Input.BETWEEN_SEGMENTS,
        Message.INTERRUPT: Input.BETWEEN_SEGMENTS,
        Message.SWITCH_AVATAR: Input.BETWEEN_SEGMENTS,
        Message.REQUEST_KEY_FRAME: Input.BETWEEN_SEGMENTS,
        Message.HALF_CLOSE: Input.CLOSED,
    },
    Input.IN_SEGMENT: {
        Message.SOUND: Input.IN_SEGMENT,
        Message.END_OF_SEGMENT: Input.BETWEEN_SEGMENTS,
        Message.INTERRUPT: Input.BETWEEN_SEGMENTS,
        Message.SWITCH_AVATAR: Input.IN_SEGMENT,
        Message.REQUEST_KEY_FRAME: Input.IN_SEGMENT,
        Message.HALF_CLOSE: Input.CLOSED,
    },
    Input.CLOSED: {},
}


class Show(StrEnum):
    """The kind of frames that are shown."""

    IDLE = "idle"
    SPEAKING = "speaking"
    STALLED = "stalled"


class Turn(StrEnum):
    """An event that changes the kind of frames."""

    FRAME_PLANNED = "a frame of a segment is planned"
    SOUND_RAN_OUT = "a frame is due, and the sound for it is not there"
    SEGMENT_SHOWN = "the last frame of a segment was sent"
    INTERRUPTED = "interrupt"


SHOW: dict[Show, dict[Turn, Show]] = {
    Show.IDLE: {
        Turn.FRAME_PLANNED: Show.SPEAKING,
        Turn.SEGMENT_SHOWN: Show.IDLE,
        Turn.INTERRUPTED: Show.IDLE,
    },
    Show.SPEAKING: {
        Turn.FRAME_PLANNED: Show.SPEAKING,
        Turn.SOUND_RAN_OUT: Show.STALLED,
        Turn.SEGMENT_SHOWN: Show.IDLE,
        Turn.INTERRUPTED: Show.IDLE,
    },
    Show.STALLED: {
        Turn.FRAME_PLANNED: Show.SPEAKING,
        Turn.SOUND_RAN_OUT: Show.STALLED,
        Turn.SEGMENT_SHOWN: Show.IDLE,
        Turn.INTERRUPTED: Show.IDLE,
    },
}
