"""Picture files of every kind that cameras and programs write: the avatar shows what OpenCV's reader, which trained it, shows."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import turbojpeg

from avatar_kit.avatar import Avatar, load_avatar
from avatar_tools.importing.sources import open_folder
from avatar_tools.verify import verify_avatar

from .conftest import FRAMES, Layouts, picture

NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
SHOWN = cv2.resize(NOISE, (160, 96), interpolation=cv2.INTER_CUBIC)
UPRIGHT = 1


def encoded(suffix: str, picture: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, picture, options)[1].tobytes()


def cmyk() -> bytes:
    inks = np.ascontiguousarray(np.dstack([255 - SHOWN[..., ::-1], np.zeros((96, 160), np.uint8)]))
    return turbojpeg.compress(inks, 95, turbojpeg.SAMP.Y444, pixelformat=turbojpeg.PF.CMYK)


def palette_png() -> bytes:
    rows = b"".join(b"\0" + bytes((x + y) % 256 for x in range(160)) for y in range(96))
    header = struct.pack(">IIBBBBB", 160, 96, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", bytes(range(256)) * 3), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(orientation: int, order: str = "<") -> bytes:
    """The one entry that says how a picture is to be turned."""
    entry = struct.pack(f"{order}HHIHH", 0x112, 3, 1, orientation, 0)
    return (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, 1) + entry + bytes(4)


def turned_jpeg(orientation: int, order: str = "<") -> bytes:
    data, body = encoded(".jpg", SHOWN), b"Exif\0\0" + tiff(orientation, order)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def turned_png(orientation: int) -> bytes:
    data = encoded(".png", SHOWN)
    end_of_header = 8 + 12 + 13
    return data[:end_of_header] + chunk(b"eXIf", tiff(orientation)) + data[end_of_header:]


def by_opencv(data: bytes) -> np.ndarray:
    """Returns the picture that training saw: turned upright."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture
def imported(run, layouts: Layouts, models_root: Path) -> Callable[[bytes, str], tuple[Avatar, str]]:
    """Imports a clip of this one picture; the avatar is whole, and what was said."""

    def import_(data: bytes, suffix: str = ".jpg") -> tuple[Avatar, str]:
        folder = layouts.go()
        for path in (folder / "frames").iterdir():
            path.unlink()
        for index in range(FRAMES):
            (folder / "frames" / f"{index}{suffix}").write_bytes(data)
        result = run(folder)
        assert result.exit_code == 0, result.output
        assert verify_avatar(models_root / "ada").problems == ()
        return load_avatar(models_root / "ada"), result.stdout

    return import_


KINDS: dict[str, Callable[[], tuple[bytes, str]]] = {
    "grey": lambda: (encoded(".jpg", SHOWN[..., 0]), ".jpg"),
    "progressive": lambda: (encoded(".jpg", SHOWN, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), ".jpg"),
    "four inks": lambda: (cmyk(), ".jpg"),
    "4:4:4": lambda: (
        encoded(".jpg", SHOWN, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        ".jpg",
    ),
    "4:1:1": lambda: (
        encoded(".jpg", SHOWN, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
        ".jpg",
    ),
    "restart markers": lambda: (encoded(".jpg", SHOWN, cv2.IMWRITE_JPEG_RST_INTERVAL, 4), ".jpg"),
    "something after the end": lambda: (encoded(".jpg", SHOWN) + b"and more" * 50, ".jpg"),
    "upright by its header": lambda: (turned_jpeg(UPRIGHT), ".jpg"),
    "a turn that there is not": lambda: (turned_jpeg(9), ".jpg"),
    "see-through PNG": lambda: (encoded(".png", np.dstack([SHOWN, SHOWN[..., 0]])), ".png"),
    "16 bits": lambda: (encoded(".png", SHOWN.astype(np.uint16) * 250), ".png"),
    "16 bits grey": lambda: (encoded(".png", SHOWN[..., 0].astype(np.uint16) * 250), ".png"),
    "palette": lambda: (palette_png(), ".png"),
    "JPEG by the name of PNG": lambda: (encoded(".jpg", SHOWN), ".png"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kept_byte_for_byte_and_shown_as_in_training(imported, kind: str) -> None:
    data, suffix = KINDS[kind]()
    avatar, said = imported(data, suffix)
    assert {path.read_bytes() for path in avatar.frame_paths} == {data}
    assert np.array_equal(avatar.read_frame(7), by_opencv(data))
    assert "byte for byte" in said


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("made", [turned_jpeg, lambda turn: turned_jpeg(turn, ">"), turned_png], ids=["jpeg", "motorola", "png"])
def test_pictures_that_lie_on_their_side_are_turned_upright(imported, orientation: int, made: Callable[[int], bytes]) -> None:
    """Landmarks and rectangles belong to the upright picture, and not every program turns it."""
    data = made(orientation)
    wanted = by_opencv(data)
    avatar, said = imported(data, ".png" if made is turned_png else ".jpg")
    assert (avatar.height, avatar.width) == wanted.shape[:2]
    assert (avatar.height > avatar.width) == (orientation >= 5)
    shown = avatar.read_frame(3)
    assert np.array_equal(shown, by_opencv(avatar.frame_paths[3].read_bytes())), "it says no more that it is to be turned"
    assert np.abs(shown.astype(int) - wanted).mean() < 3
    assert "12 pictures are stored turned: written upright, as JPEG of quality 95" in said


def test_one_turned_picture_among_others(run, layouts: Layouts, models_root: Path) -> None:
    folder = layouts.go()
    (folder / "frames" / "frame_000004.jpg").write_bytes(turned_jpeg(3))
    result = run(folder)
    assert "1 picture is stored turned: written upright" in result.stdout
    avatar = load_avatar(models_root / "ada")
    assert np.abs(avatar.read_frame(4).astype(int) - by_opencv(turned_jpeg(3))).mean() < 3
    assert avatar.frame_paths[5].read_bytes() == (folder / "frames" / "frame_000005.jpg").read_bytes()


def test_a_turned_picture_of_another_size_is_named(refused, layouts: Layouts) -> None:
    folder = layouts.go()
    (folder / "frames" / "frame_000004.jpg").write_bytes(turned_jpeg(6))
    assert "frames/frame_000004.jpg is 96x160, the avatar is 160x96" in refused(folder)


def test_landmarks_are_looked_for_in_the_upright_picture(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.jpg").write_bytes(turned_jpeg(6))
    folder = open_folder(tmp_path, inside=tmp_path)
    assert all(np.array_equal(frame, by_opencv(turned_jpeg(6))) for frame in folder.pictures())


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tiff"])
def test_other_kinds_are_refused_by_what_they_are(refused, layouts: Layouts, suffix: str) -> None:
    folder = layouts.go()
    (folder / "frames" / "frame_000004.jpg").write_bytes(encoded(suffix, SHOWN))
    assert "frames/frame_000004.jpg is not a JPEG or PNG picture" in refused(folder)


@pytest.mark.parametrize(("alpha", "warned"), [(255, False), (254, True)])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_transparency_that_is_dropped_is_warned_of(run, layouts, depth: type, alpha: int, warned: bool) -> None:
    folder = layouts.go("frame_{:04d}.png")
    scale = 1 if depth == np.uint8 else 257
    for index in (2, 7):
        see_through = np.dstack([picture(index), np.full((96, 160), 255, np.uint8)]).astype(depth) * scale
        see_through[40, 50, 3] = alpha * scale
        (folder / "frames" / f"frame_{index:04d}.png").write_bytes(cv2.imencode(".png", see_through)[1].tobytes())
    result = run(folder)
    assert result.exit_code == 0, result.output
    told = "warning: frames: 2 pictures are transparent in places: transparency is dropped, and the colours beneath show"
    assert (told in result.stdout) == warned
