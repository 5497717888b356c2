"""The most bytes of each of an avatar's files: what this family of networks needs, several times over.

A file is refused by its size before it is read, so that no file costs more than its limit, whoever wrote it.
"""

from __future__ import annotations

_KIB, _MIB = 2**10, 2**20

MAX_MANIFEST_BYTES = 16 * _KIB  # ten times what is written; reading as much takes a quarter of a second at worst
MAX_MODEL_BYTES = 256 * _MIB  # the network has 49 MB in float32, the encoder 11
MAX_PICTURE_BYTES = 64 * _MIB  # of a picture whose size is not known yet
MAX_RECTS_BYTES = 16 * _MIB  # some 700,000 rectangles, eight hours of video

_RECT_BYTES = 512  # 25 of numbers; older packages write an object with other things beside them
_SUM_BYTES = 128  # 94 are written
_PIXEL_BYTES = 8  # four channels of 16 bits


def max_rects_bytes(frame_count: int) -> int:
    """Of the rectangles of so many frames."""
    return min(MAX_RECTS_BYTES, 64 * _KIB + _RECT_BYTES * frame_count)


# As many as may be read where nobody can tell how many frames there are, since they are missing.
FRAMES_UNKNOWN = 2000


def max_sums_bytes(frame_count: int) -> int:
    """Of the checksums of so many pictures."""
    return 64 * _KIB + _SUM_BYTES * frame_count


def max_picture_bytes(width: int, height: int) -> int:
    """Of a picture of that size: its pixels unpacked, and what cameras write beside them."""
    return min(MAX_PICTURE_BYTES, _MIB + _PIXEL_BYTES * width * height)


def max_video_bytes(frame_count: int, width: int, height: int) -> int:
    """Of a video of so many frames: all of them unpacked, and sound."""
    return 64 * _MIB + frame_count * (64 * _KIB + _PIXEL_BYTES * width * height)


def max_feature_rows(frame_count: int) -> int:
    """Of stored features, one row a frame: more than the frames have, because an avatar may show a part of its clip."""
    return max(10_000, 4 * frame_count)
