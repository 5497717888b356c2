"""Reads JPEG and PNG pictures from files that may be damaged.

OpenCV decodes. But a JPEG decoder fills in missing data and only warns, so completeness is checked here: by the file's
structure, by the grey that libjpeg leaves where data ran out, and in doubt by a second, strict decoder.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from avatar_kit.geometry import Picture
from avatar_kit.safe_files import FileProblem

MIN_SIDE, MAX_SIDE = 16, 8192
MAX_PIXELS = 8192 * 4608  # an 8K frame, in cinema's formats too

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The time for a picture is bounded by its pixels and by these: each scan of a JPEG visits all pixels, each part of a file costs
# Python code. Progressive JPEGs have about ten scans, colour profiles some hundred parts, an 8K PNG ten thousand.
_MAX_SCANS, _MAX_SEGMENTS, _MAX_CHUNKS = 20, 4096, 100_000
# The chunks with a PNG's pixels and orientation. Others may hold gigabytes of compressed text, which libpng always unpacks.
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"})

_EOI, _SOS, _DRI = 0xD9, 0xDA, 0xDD
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the others of C0 .. CF are tables
_ONE_PASS = frozenset({0xC0, 0xC1})
_READ_BY_BOTH = frozenset({0xC0, 0xC1, 0xC2, 0xC3})  # the second decoder cannot read arithmetic coding
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without length and body
_MARKER_AFTER_DATA = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # stuffed zeros and restarts are part of the data

_RESTARTS = tuple(bytes((0xFF, marker)) for marker in range(0xD0, 0xD8))
_FILL = re.compile(rb"\xff*")
_CUT_JPEG = "is truncated: a JPEG that ends before its end marker"
_CUT_PNG = "is truncated: a PNG that ends before its last chunk"

_GREY_LUMA, _GREY_TOLERANCE = 128, 3


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """Properties of a whole picture file, from its header."""

    suffix: str
    width: int
    height: int
    one_pass: bool = True
    """True: the rows are stored in order, so when the last was decoded, all were."""
    strictly_readable: bool = False
    """True: a JPEG of a kind that the second, strict decoder can read."""


@dataclass(frozen=True, slots=True)
class _JpegFrame:
    """A JPEG frame header. `blocks`: number of MCUs, the unit of restart intervals."""

    width: int
    height: int
    blocks: int
    marker: int


def inspect_picture(data: bytes) -> PictureHeader:
    """Returns kind and size of a structurally whole JPEG or PNG file, without decoding it.

    Raises FileProblem if it is neither, ends early, or is too large to be decoded.
    """
    if data.startswith(b"\xff\xd8"):
        header = _inspect_jpeg(data)
    elif data.startswith(_PNG_SIGNATURE):
        header = _inspect_png(data)
    else:
        raise FileProblem("is empty" if not data else "is not a JPEG or PNG picture")
    problem = size_problem(header.width, header.height)
    if problem:
        raise FileProblem(problem)
    return header


def size_problem(width: int, height: int) -> str | None:
    """Says why that size cannot be a picture's; None if it can."""
    if min(width, height) < MIN_SIDE:
        return f"is {width}x{height}, less than {MIN_SIDE}x{MIN_SIDE}"
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        return f"is {width}x{height}, more than {MAX_SIDE} pixels a side or {MAX_PIXELS} in all"
    return None


def check_size(width: int, height: int, wanted_width: int, wanted_height: int) -> None:
    """Raises FileProblem for another size than wanted."""
    if (width, height) != (wanted_width, wanted_height):
        raise FileProblem(f"is {width}x{height}, the avatar is {wanted_width}x{wanted_height}")


def decode_picture(data: bytes, *, width: int, height: int, thorough: bool = False) -> Picture:
    """Decodes a whole JPEG or PNG file of exactly that size to [height, width, 3]; ignores EXIF orientation.

    `thorough`: always runs the strict decoder over a JPEG, which takes half as long again. Raises FileProblem. Compares the size
    before allocating anything.
    """
    header = inspect_picture(data)
    check_size(header.width, header.height, width, height)
    try:
        picture = cv2.imdecode(np.frombuffer(pixels_alone(data), np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        picture = None
    if picture is None or picture.shape != (height, width, 3):
        raise FileProblem("cannot be decoded: damaged or truncated")
    decoded = np.asarray(picture, np.uint8)
    if header.strictly_readable and (thorough or not (header.one_pass and _reached_the_end(decoded))):
        _decode_strictly(data)
    return decoded


def _decode_strictly(data: bytes) -> None:
    """Raises FileProblem when a JPEG file's compressed data end early or make no sense."""
    import av

    codec = av.CodecContext.create("mjpeg", "r")
    codec.thread_count = 1
    codec.options = {"err_detect": "explode"}
    try:
        frames = [*codec.decode(av.Packet(data)), *codec.decode(None)]
    except av.error.FFmpegError:
        frames = []
    if not frames:
        raise FileProblem("has damaged or truncated JPEG data")


def _reached_the_end(picture: Picture) -> bool:
    """Returns True if the last pixel is certainly not the mid-grey that libjpeg leaves where data ran out."""
    blue, green, red = (float(value) for value in picture[-1, -1])
    return abs(0.114 * blue + 0.587 * green + 0.299 * red - _GREY_LUMA) > _GREY_TOLERANCE


def _inspect_jpeg(data: bytes) -> PictureHeader:
    """Walks the marker segments to the end-of-image marker, which a truncated file lacks."""
    frame: _JpegFrame | None = None
    restart_interval, scans, restarts, segments = 0, 0, 0, 0
    marker, position = _next_marker(data, 2)
    while marker != _EOI:
        if marker not in _BARE_MARKERS:
            body, position = _segment(data, position)
            segments += 1
            if marker in _FRAME_HEADERS:
                frame = _jpeg_frame(marker, body, frame)
            elif marker == _DRI:
                restart_interval = int.from_bytes(body[:2], "big")
            elif marker == _SOS:
                scans += 1
                start, position = position, _end_of_data(data, position)
                restarts += sum(data.count(each, start, position) for each in _RESTARTS) if restart_interval else 0
        if scans > _MAX_SCANS:
            raise FileProblem(f"is a JPEG of more than the {_MAX_SCANS} scans allowed; save it anew, as a baseline JPEG")
        if segments > _MAX_SEGMENTS:
            raise FileProblem(f"is a JPEG of more than the {_MAX_SEGMENTS} segments allowed; save it anew")
        marker, position = _next_marker(data, position)
    if frame is None or not scans:
        raise FileProblem("is a JPEG without a picture in it")
    one_pass = frame.marker in _ONE_PASS and scans == 1
    if one_pass and restart_interval and restarts != (frame.blocks - 1) // restart_interval:
        raise FileProblem(f"is a damaged JPEG: {restarts} of {(frame.blocks - 1) // restart_interval} restart markers")
    return PictureHeader(".jpg", frame.width, frame.height, one_pass, frame.marker in _READ_BY_BOTH)


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    """Returns the marker at `position` and the start of its segment. Any number of FF may precede the marker."""
    start = position
    filled = _FILL.match(data, position)
    position = filled.end() if filled else position
    if position >= len(data):
        raise FileProblem(_CUT_JPEG)
    if position == start or data[position] == 0:
        raise FileProblem("is a damaged JPEG: something other than a marker where one must be")
    return data[position], position + 1


def _segment(data: bytes, position: int) -> tuple[bytes, int]:
    """Returns the body of the segment whose length is at `position`, and its end."""
    length = int.from_bytes(data[position : position + 2], "big")
    if position + max(length, 2) > len(data):
        raise FileProblem(_CUT_JPEG)
    return data[position + 2 : position + length], position + max(length, 2)


def _end_of_data(data: bytes, position: int) -> int:
    found = _MARKER_AFTER_DATA.search(data, position)
    if found is None:
        raise FileProblem(_CUT_JPEG)
    return found.start()


def _jpeg_frame(marker: int, body: bytes, earlier: _JpegFrame | None) -> _JpegFrame:
    if earlier is not None or len(body) < 6 or len(body) < 6 + 3 * body[5] or not body[5]:
        raise FileProblem("is a damaged JPEG: its frame header is cut off or not the only one")
    height, width = struct.unpack_from(">HH", body, 1)
    factors = [(byte >> 4, byte & 15) for byte in body[7 : 6 + 3 * body[5] : 3]]
    # A single component is coded block by block, regardless of its factors.
    across, down = (1, 1) if len(factors) == 1 else (max(x for x, _ in factors), max(y for _, y in factors))
    blocks = math.ceil(width / (8 * max(across, 1))) * math.ceil(height / (8 * max(down, 1)))
    return _JpegFrame(width, height, blocks, marker)


def _inspect_png(data: bytes) -> PictureHeader:
    """Walks the chunks, each with its own checksum, to the last."""
    size: tuple[int, int] | None = None
    for number, (kind, start, end) in enumerate(_chunks(data)):
        if number >= _MAX_CHUNKS:
            raise FileProblem(f"is a PNG of more than the {_MAX_CHUNKS} chunks allowed; save it anew")
        if zlib.crc32(memoryview(data)[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise FileProblem("is a damaged PNG: a chunk's checksum is wrong")
        if kind == b"IHDR" and size is None and end - start >= 20:
            size = struct.unpack_from(">II", data, start + 8)
    if size is None:
        raise FileProblem("is a damaged PNG: it has no header")
    return PictureHeader(".png", *size)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, start and end of each chunk of a PNG."""
    position, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise FileProblem(_CUT_PNG)
        length, kind = struct.unpack_from(">I4s", data, position)
        start, position = position, position + 12 + length
        if position > len(data):
            raise FileProblem(_CUT_PNG)
        yield kind, start, position


def pixels_alone(data: bytes) -> bytes:
    """Returns the file without a PNG's text chunks, which may unpack to any length."""
    if not data.startswith(_PNG_SIGNATURE):
        return data
    chunks = list(_chunks(data))
    if all(kind in _PIXEL_CHUNKS for kind, _, _ in chunks):
        return data
    return _PNG_SIGNATURE + b"".join(data[start:end] for kind, start, end in chunks if kind in _PIXEL_CHUNKS)
