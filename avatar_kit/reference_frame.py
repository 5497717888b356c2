"""Selects the picture whose unmasked crop the network sees beside the masked crop."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

_FIXED = re.compile(r"fixed:(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """`frame` None: each picture's own crop, as in training. Otherwise that picture's crop, for every frame."""

    ACCEPTED: ClassVar[str] = "current, or fixed:INDEX"  # as files and messages have it

    frame: int | None = None

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parses the text of a file or a command line; returns a Reference unchanged. Raises ValueError."""
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
        """Says why a clip of `frame_count` pictures cannot use it; None if it can."""
        if self.frame is None or 0 <= self.frame < frame_count:
            return None
        return f"reference is {self}, but the avatar has frames 0 to {frame_count - 1}"
