"""Damage is judged by what was done to the file, never by what our own reader says of it."""

from __future__ import annotations

import itertools
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
import turbojpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from avatar_kit.pictures import decode_picture, inspect_picture
from avatar_kit.safe_files import FileProblem

WIDTH, HEIGHT = 83, 61
EOI = b"\xff\xd9"


def smooth(seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3), np.uint8)


def jpeg(picture: NDArray[np.uint8], **options: int) -> bytes:
    flat = itertools.chain.from_iterable((getattr(cv2, f"IMWRITE_JPEG_{name.upper()}"), given) for name, given in options.items())
    return cv2.imencode(".jpg", picture, list(flat))[1].tobytes()


def read(data: bytes) -> NDArray[np.uint8]:
    return decode_picture(data, width=WIDTH, height=HEIGHT)


JPEGS = {
    "plain": jpeg(smooth()),
    "coarse": jpeg(smooth(), quality=5),
    "fine": jpeg(smooth(), quality=100),
    "full colour": jpeg(smooth(), sampling_factor=cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    "restarts": jpeg(smooth(), rst_interval=2),
    "restart each block": jpeg(smooth(), rst_interval=1),
    "progressive": jpeg(smooth(), progressive=1),
    "optimised": jpeg(smooth(), optimize=1),
    "all mid-grey": jpeg(np.full((HEIGHT, WIDTH, 3), 128, np.uint8)),
    "one channel": cv2.imencode(".jpg", smooth()[..., 0])[1].tobytes(),
    "another encoder": turbojpeg.compress(smooth(), 80, turbojpeg.SAMP.Y422, pixelformat=turbojpeg.PF.BGR),
    "narrow colour": turbojpeg.compress(smooth(), 80, turbojpeg.SAMP.Y411, pixelformat=turbojpeg.PF.BGR, restartrows=1),
    "arithmetic": turbojpeg.compress(smooth(), 80, turbojpeg.SAMP.Y420, pixelformat=turbojpeg.PF.BGR, arithmetic=True),
    "lossless": turbojpeg.compress(smooth(), 80, turbojpeg.SAMP.Y444, pixelformat=turbojpeg.PF.BGR, lossless=True),
}
PNGS = {
    "colour": cv2.imencode(".png", smooth())[1].tobytes(),
    "grey": cv2.imencode(".png", smooth()[..., 0])[1].tobytes(),
    "see-through": cv2.imencode(".png", cv2.cvtColor(smooth(), cv2.COLOR_BGR2BGRA))[1].tobytes(),
    "16 bits": cv2.imencode(".png", smooth().astype(np.uint16) * 257)[1].tobytes(),
}
WHOLE = {**JPEGS, **PNGS}
each_whole = pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE.keys())
each_jpeg = pytest.mark.parametrize("data", JPEGS.values(), ids=JPEGS.keys())


@each_whole
def test_a_whole_picture_is_decoded_as_opencv_decodes_it(data: bytes) -> None:
    assert np.array_equal(read(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


@each_jpeg
def test_the_strict_decoder_has_nothing_against_a_whole_jpeg(data: bytes) -> None:
    decode_picture(data, width=WIDTH, height=HEIGHT, thorough=True)


@each_whole
def test_a_picture_cut_anywhere_is_refused(data: bytes) -> None:
    step = max(1, len(data) // 400)
    for length in [*range(0, len(data), step), len(data) - 2, len(data) - 1]:
        with pytest.raises(FileProblem):
            read(data[:length])


@each_whole
def test_a_picture_whose_tail_was_never_written_is_refused(data: bytes) -> None:
    for length in range(0, len(data) - 8, max(1, len(data) // 50)):
        with pytest.raises(FileProblem):
            read(data[:length] + bytes(len(data) - length))


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "coarse",
        "fine",
        "full colour",
        "restarts",
        "restart each block",
        "all mid-grey",
        "another encoder",
        "narrow colour",
    ],
)
def test_a_jpeg_that_ends_properly_but_lacks_rows_is_refused(name: str) -> None:
    data = JPEGS[name]
    start = data.rindex(b"\xff\xda") + 14
    for length in range(start, start + (len(data) - start) * 3 // 4, max(1, len(data) // 60)):
        with pytest.raises(FileProblem):
            read(data[:length].rstrip(b"\xff") + EOI)


@each_whole
@settings(max_examples=settings().max_examples * 60 // 100)
@given(st.data())
def test_damage_near_the_end_gives_a_picture_or_a_problem_and_nothing_else(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 8))):
        damaged[-draw.draw(st.integers(1, min(200, len(data))))] = draw.draw(st.integers(0, 255))
    try:
        picture = read(bytes(damaged))
    except FileProblem:
        return
    assert picture.shape == (HEIGHT, WIDTH, 3)


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]))
def test_any_bytes_are_a_problem_and_nothing_else(tail: bytes, start: bytes) -> None:
    with pytest.raises(FileProblem):
        read(start + tail)


@pytest.mark.parametrize("data", PNGS.values(), ids=PNGS.keys())
def test_any_flipped_bit_of_a_png_is_noticed(data: bytes) -> None:
    for position in range(0, len(data), max(1, len(data) // 150)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(FileProblem):
            read(bytes(damaged))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(kind: bytes, body: bytes, count: int) -> bytes:
    """A PNG with so many more chunks before its pixels."""
    whole = PNGS["colour"]
    start = whole.index(b"IDAT") - 4
    return whole[:start] + png_chunk(kind, body) * count + whole[start:]


def png_of(rows: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(range(3)) * width) * rows)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def test_a_png_with_sound_checksums_but_too_few_rows_is_refused() -> None:
    assert read(png_of(HEIGHT)).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(FileProblem):
        read(png_of(HEIGHT - 1))


def test_a_huge_size_is_refused_from_the_header() -> None:
    bomb = png_of(1, 100_000, 100_000)
    with pytest.raises(FileProblem, match="100000x100000"):
        inspect_picture(bomb)
    plain = JPEGS["plain"]
    size = plain.index(b"\xff\xc0") + 5
    with pytest.raises(FileProblem, match="65535x65535"):
        inspect_picture(plain[:size] + b"\xff\xff\xff\xff" + plain[size + 4 :])


def test_a_second_size_can_not_be_smuggled_in() -> None:
    plain = JPEGS["plain"]
    start = plain.index(b"\xff\xc0")
    frame = plain[start : start + 19]
    huge = frame[:5] + b"\xff\xff\xff\xff" + frame[9:]
    for doubled in (plain[:start] + huge + plain[start:], plain[:-2] + huge + EOI):
        with pytest.raises(FileProblem):
            inspect_picture(doubled)


def test_a_picture_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(FileProblem, match="is 83x61, the avatar is 160x96"):
        decode_picture(JPEGS["plain"], width=160, height=96)


def test_a_camera_that_lay_on_its_side_does_not_turn_the_picture() -> None:
    tags = (
        b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<I", 0)
    )
    segment = b"Exif\0\0" + tags
    plain = JPEGS["plain"]
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (WIDTH, HEIGHT, 3), "OpenCV would turn it"
    assert np.array_equal(read(turned), read(plain))


def test_a_small_picture_inside_the_header_does_not_pass_for_the_end() -> None:
    """A camera's preview is a whole JPEG, end marker included, in a segment of the outer one."""
    thumbnail = jpeg(smooth()[:32, :32])
    plain = JPEGS["plain"]
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + plain[2:]
    assert np.array_equal(read(data), read(plain))
    for cut in (len(thumbnail) + 6, len(data) // 2, len(data) - 1):
        with pytest.raises(FileProblem, match="truncated"):
            read(data[:cut])


@pytest.mark.parametrize("fill", [1, 7])
def test_fill_bytes_before_a_marker_are_allowed(fill: int) -> None:
    plain = JPEGS["plain"]
    assert np.array_equal(read(plain[:-2] + b"\xff" * fill + EOI), read(plain))


def test_what_follows_the_end_is_ignored() -> None:
    plain = JPEGS["plain"]
    assert np.array_equal(read(plain + b"appended by some tool"), read(plain))


def test_many_scans_are_refused() -> None:
    progressive = JPEGS["progressive"]
    start = progressive.rindex(b"\xff\xda")
    with pytest.raises(FileProblem, match="more than the 20 scans allowed"):
        inspect_picture(progressive[:-2] + progressive[start:-2] * 11 + EOI)


def test_a_jpeg_of_countless_empty_segments_is_refused() -> None:
    with pytest.raises(FileProblem, match="more than the 4096 segments allowed"):
        inspect_picture(JPEGS["plain"][:2] + b"\xff\xe0\x00\x02" * 10_000_000 + JPEGS["plain"][2:])


def test_a_png_of_countless_empty_chunks_is_refused() -> None:
    with pytest.raises(FileProblem, match="more than the 100000 chunks allowed"):
        inspect_picture(with_chunks(b"abCd", b"", 1_000_000))


@pytest.mark.parametrize(("kind", "before"), [(b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")])
def test_text_in_a_png_is_not_unpacked(kind: bytes, before: bytes) -> None:
    """900 texts of 8 MB in a file of 7 MB: unpacked they would take 7 GB and a minute."""
    data = with_chunks(kind, before + zlib.compress(bytes(7_900_000), 9), 900)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert np.array_equal(read(data), read(PNGS["colour"]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000, "kilobytes"
