"""The options of an import."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from avatar_kit.geometry import Mask, Paste
from avatar_kit.safe_files import FileProblem
from avatar_kit.timeline import FrameRange, IdleMouth, Loop

_PART = re.compile(r"(\d{0,9}):(\d{0,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Part:
    """Frames `start` to `stop` - 1 of a clip, counted from 0; `stop` None: to its end."""

    start: int = 0
    stop: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses A:B, A: or :B. Raises ValueError."""
        match = _PART.fullmatch(text)
        if not match or text == ":":
            raise ValueError("expected A:B for frames A to B - 1, counted from 0, or A: or :B")
        return cls(int(match[1] or 0), int(match[2]) if match[2] else None)

    def of(self, count: int) -> range:
        """The indices for a clip of that many frames. Raises FileProblem when the clip lacks them."""
        stop = count if self.stop is None else self.stop
        if not self.start < stop <= count:
            raise FileProblem(f"has frames 0 to {count - 1}: there are no frames {self.start}:{stop} in it")
        return range(self.start, stop)


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Source and target of an import. A path that is None is searched for in the source; a given path comes first."""

    source: Path
    """A folder in one of the family's layouts, or a video."""
    avatar_id: str
    models_root: Path
    checkpoint: Path | None = None
    """The lip-sync network, ONNX or `.pth`, or a folder of checkpoints, of which the newest is taken."""
    rectangles: Path | None = None
    landmarks: Path | None = None
    """A folder of `.lms` files or an array `.npy`."""
    audio_encoder: Path | None = None
    smooth: int | None = None
    """Average the rectangles over this odd number of frames, at least 3."""
    detector: Path | None = None
    landmarker: Path | None = None
    """The family's pair of ONNX models that find the landmarks; both or none."""
    loop: Loop = Loop.BOUNCE
    paste: Paste = Paste.REFERENCE
    mask: Mask | None = None
    """None: the family's own."""
    reference_frame: int | None = None
    """None: each frame's own crop is its reference."""
    idle: FrameRange | None = None
    """None: the whole clip."""
    idle_mouth: IdleMouth = IdleMouth.REST
    part: Part | None = None
    """None: the whole clip. Frames of `reference_frame` and `idle` are counted in the part."""
    features: bool = True
    """Take the clip's stored features along, if there are any."""
    keep_video: bool = False
    """The avatar keeps the source's video, from which its frames are read, instead of pictures extracted from it."""
    replace: bool = False
