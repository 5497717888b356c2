"""What is asked of an import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avatar_kit.geometry import Mask, Paste
from avatar_kit.timeline import FrameRange, Loop


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Source and target of an import. A path that is None is looked for in the source; a path that is given comes first."""

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
    """Average the rectangles over so many frames, an odd number from 3."""
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
    keep_video: bool = False
    """The avatar keeps the source's video, from which its frames are read, instead of pictures extracted from it."""
    replace: bool = False
