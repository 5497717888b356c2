"""The settings of a session that its machine follows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a session that its machine follows."""

    rate: int
    """Hz, of the sound that comes."""
    look_ahead: int
    """Frames, 6 to 12."""
    in_real_time: bool
    cushion_ms: int
    frames_ahead: int
    """The most frames that are planned and not sent, without overload."""
    first_number: int = 0
    first_segment: int = 0
    first_frame: int = 0
    """Frame of the first segment that is the first one wanted."""
    audio_start_frame: int = 0
    """Frame of the first segment at which its sound begins."""
    is_resumed: bool = False

    @property
    def resumes_in_a_segment(self) -> bool:
        """Tells if the first sound goes on with a segment of which frames were shown."""
        return self.is_resumed and self.first_frame > 0
