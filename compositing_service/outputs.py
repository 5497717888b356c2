"""The forms in which frames leave the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from shared_proto import compositing_pb2 as pb


@dataclass(frozen=True, slots=True)
class JpegOutput:
    """Baseline JPEG files, 4:2:0."""

    wire_format: ClassVar = pb.FORMAT_JPEG

    quality: int
    """1 to 100."""


@dataclass(frozen=True, slots=True)
class RawOutput:
    """Pixels: uint8, height rows of width pixels of B, G, R."""

    wire_format: ClassVar = pb.FORMAT_RAW_BGR


Output: TypeAlias = JpegOutput | RawOutput
"""Form of pictures, each of which stands alone."""


@dataclass(frozen=True, slots=True)
class H264Output:
    """Access units of H.264 in Annex B, encoded from JPEG files. In sessions alone, as each needs those before it."""

    wire_format: ClassVar = pb.FORMAT_H264

    quality: int
    """1 to 100."""


SessionOutput: TypeAlias = Output | H264Output
