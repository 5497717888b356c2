"""Finds the parts of a JPEG file: its header, its settings, its restart segments.

Reads only files that `encoder` writes, and refuses all others: splicing into a file of other settings would give a picture
that decoders accept and viewers see as noise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from compositing_service.picture.jpeg.encoder import MCU_SIZE

_SOI = b"\xff\xd8"
_EOI = b"\xff\xd9"
_SOF0 = 0xC0
_DRI = 0xDD
_SOS = 0xDA
_OTHER_SOF = frozenset(range(0xC1, 0xD0)) - {0xC4, 0xC8, 0xCC}  # progressive, arithmetic and the like; C4, C8, CC are no frames
_LUMA_THEN_CHROMA_420 = (0x22, 0x11, 0x11)  # sampling factors, horizontal and vertical in a nibble each

# Inside entropy-coded data FF is always followed by 00, so this matches markers alone.
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")


class JpegLayoutError(ValueError):
    """A file that cannot be cut and joined."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The settings in the header. The entropy-coded data is in [scan_start, scan_end)."""

    width: int
    height: int
    restart_interval: int
    scan_start: int
    scan_end: int

    @property
    def mcu_count(self) -> int:
        """Counts the MCUs in the scan."""
        return -(-self.width // MCU_SIZE) * -(-self.height // MCU_SIZE)

    @property
    def segment_count(self) -> int:
        """Counts the restart segments in the scan: 1 without markers."""
        return -(-self.mcu_count // self.restart_interval) if self.restart_interval else 1


def read_layout(data: bytes) -> Layout:
    """Reads the markers up to the scan. Raises JpegLayoutError for anything but one baseline 4:2:0 scan of three components."""
    if data[:2] != _SOI or data[-2:] != _EOI:
        raise JpegLayoutError("no JPEG file: start or end marker missing")
    size: tuple[int, int] | None = None
    restart_interval = 0
    position = 2
    while True:
        marker, body = _header_segment(data, position)
        position += 4 + len(body)
        if marker == _SOF0:
            size = _frame_size(body)
        elif marker == _DRI:
            restart_interval = int.from_bytes(body[:2], "big")
        elif marker in _OTHER_SOF:
            raise JpegLayoutError(f"not a baseline JPEG: frame marker {marker:#x}")
        elif marker == _SOS:
            break
    if size is None or body[:1] != b"\x03":
        raise JpegLayoutError("the first scan does not hold all three components")
    width, height = size
    return Layout(width, height, restart_interval, position, len(data) - 2)


def segment_bounds(data: bytes, layout: Layout) -> list[tuple[int, int]]:
    """Returns [start, end) of every restart segment in `data`, without markers, in the order of the scan."""
    markers = [match.start() for match in _RESTART.finditer(data, layout.scan_start, layout.scan_end)]
    starts = [layout.scan_start, *(position + 2 for position in markers)]
    ends = [*markers, layout.scan_end]
    if len(starts) != layout.segment_count:
        raise JpegLayoutError(f"{len(starts)} restart segments, expected {layout.segment_count}")
    return list(zip(starts, ends, strict=True))


def split_segments(scan: bytes) -> list[bytes]:
    """Splits entropy-coded data into its restart segments, without markers."""
    return _RESTART.split(scan)


def _header_segment(data: bytes, position: int) -> tuple[int, bytes]:
    """Returns the marker at `position` and the content after its length field."""
    if data[position : position + 1] != b"\xff" or position + 4 > len(data):
        raise JpegLayoutError(f"no marker at byte {position}")
    length = int.from_bytes(data[position + 2 : position + 4], "big")
    body = data[position + 4 : position + 2 + length]
    if length < 2 or len(body) != length - 2:
        raise JpegLayoutError(f"the marker segment at byte {position} is cut short")
    return data[position + 1], body


def _frame_size(body: bytes) -> tuple[int, int]:
    sampling = tuple(body[7::3])
    if body[:1] != b"\x08" or sampling != _LUMA_THEN_CHROMA_420:
        raise JpegLayoutError(f"a frame of sampling factors {sampling}, expected 8-bit 4:2:0")
    return int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
