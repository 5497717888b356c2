"""Which frame's unmasked crop the network is shown beside the masked crop of the frame that it fills in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

_FIXED = re.compile(r"fixed:(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """`frame` None: each frame's own crop, as in training. Else the crop of that one frame, for every frame."""

    ACCEPTED: ClassVar[str] = "current, or fixed:INDEX"  # as files and messages have it

    frame: int | None = None

    @classmethod
    def parse(cls, value: object) -> Self:
        """What a file or a command line says; a Reference is one already. Raises ValueError."""
        if isinstance(value, cls):
            return value
        if value == "current":
            return cls()
        if isinstance(value, str) and (match := _FIXED.fullmatch(value)):
            return cls(int(match[1]))
        raise ValueError("expected current, or fixed: and the number of a frame without a space, as in fixed:12")

    def __str__(self) -> str:
        return "current" if self.frame is None else f"fixed:{self.frame}"

    def problem(self, frame_count: int) -> str | None:
        """What keeps a clip of that many frames from having it; None when it does."""
        if self.frame is None or 0 <= self.frame < frame_count:
            return None
        return f"reference is {self}, but the avatar has frames 0 to {frame_count - 1}"
