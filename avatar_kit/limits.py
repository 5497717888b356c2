"""Size limits of an avatar's files: several times what this family of networks needs.

A file is refused by its size before it is read, so that no file costs more than its limit.
"""

from __future__ import annotations

_KIB, _MIB = 2**10, 2**20

MAX_MANIFEST_BYTES = 16 * _KIB  # ten times what we write; reading it takes a quarter of a second at worst
MAX_MODEL_BYTES = 256 * _MIB  # the network has 49 MB in float32, the encoder 11
MAX_PICTURE_BYTES = 64 * _MIB  # for a picture of unknown size
MAX_RECTS_BYTES = 16 * _MIB  # some 700,000 rectangles, eight hours of video

_RECT_BYTES = 512  # the numbers take 25; older packages write an object with more in it
_SUM_BYTES = 128  # we write 94
_PIXEL_BYTES = 8  # four channels of 16 bits


def max_rects_bytes(frame_count: int) -> int:
    """Returns the limit of a file with `frame_count` rectangles."""
    return min(MAX_RECTS_BYTES, 64 * _KIB + _RECT_BYTES * frame_count)


# Assumed when the pictures are missing, and with them their number.
FRAMES_UNKNOWN = 2000


def max_sums_bytes(frame_count: int) -> int:
    """Returns the limit of a file with `frame_count` checksums."""
    return 64 * _KIB + _SUM_BYTES * frame_count


def max_picture_bytes(width: int, height: int) -> int:
    """Returns the limit of a picture of that size: its pixels uncompressed, and the metadata that cameras add."""
    return min(MAX_PICTURE_BYTES, _MIB + _PIXEL_BYTES * width * height)


def max_video_bytes(frame_count: int, width: int, height: int) -> int:
    """Returns the limit of a video: all its pictures uncompressed, and sound."""
    return 64 * _MIB + frame_count * (64 * _KIB + _PIXEL_BYTES * width * height)


def max_feature_rows(frame_count: int) -> int:
    """Returns the limit of stored rows, one a picture: above `frame_count`, because an avatar may show a part of its clip."""
    return max(10_000, 4 * frame_count)
