"""Counts what a session used, for one line in the log at its end."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from service_kit.callers.caller import current

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Usage:
    """The figures of one session."""

    rate: int
    """Hz, of its sound."""
    began_s: float
    samples: int = 0
    frames: int = 0
    bytes: int = 0
    """Sent to the browser."""
    resumes: int = 0
    first_frame_s: float | None = None

    def frame(self, now_s: float) -> None:
        """Counts a frame."""
        self.frames += 1
        if self.first_frame_s is None:
            self.first_frame_s = now_s - self.began_s

    def log_end(self, now_s: float, code: str, message: str) -> None:
        """Writes the line."""
        first = {} if self.first_frame_s is None else {"first_frame_ms": 1000 * self.first_frame_s}
        why = {"status": message} if message else {}
        log.info(
            "browser session ended",
            extra={
                "code": code,
                **({"caller": current.get().name} if current.get().name else {}),
                "seconds": now_s - self.began_s,
                "frames": self.frames,
                "bytes": self.bytes,
                "sound_seconds": self.samples / self.rate,
                "resumes": self.resumes,
                **first,
                **why,
            },
        )
