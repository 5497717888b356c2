"""Faults of a source: each is one clear sentence that names the file, and nothing is written."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from avatar_kit.avatar import load_avatar

from .conftest import FRAMES, Layouts, jpeg, lms_text, network, points, square, write_video


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def damaged(data: bytes, how: str) -> bytes:
    middle = len(data) // 2
    if how == "cut":
        return data[:middle]
    if how == "cut, with an end":
        return data[:middle] + b"\xff\xd9"
    if how == "empty":
        return b""
    if how == "zeros":
        return data[:middle] + bytes(len(data) - middle)
    return b"GIF89a" + data


@pytest.mark.parametrize("how", ["cut", "cut, with an end", "empty", "zeros", "not a JPEG"])
def test_a_damaged_picture_in_the_middle(refused, layouts, how: str) -> None:
    folder = layouts.research()
    noisy = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    data = cv2.imencode(".jpg", noisy)[1].tobytes()
    (folder / "full_body_img" / "6.jpg").write_bytes(damaged(data, how))
    assert "full_body_img/6.jpg " in refused(folder)


def test_all_bad_pictures_are_named_at_once(refused, layouts) -> None:
    folder = layouts.research()
    for number in (3, 7):
        path = folder / "full_body_img" / f"{number}.jpg"
        path.write_bytes(path.read_bytes()[:-100])
    (folder / "full_body_img" / "9.jpg").write_bytes(jpeg(9, width=170))
    said = refused(folder)
    assert all(f"full_body_img/{number}.jpg " in said for number in (3, 7, 9))
    assert "is 170x96, the avatar is 160x96" in said


def huge_png() -> bytes:
    """A header of 100,000 x 100,000 pixels and no pictures: decoding it would take 30 GB."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    parts = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def huge_jpeg() -> bytes:
    data = bytearray(jpeg(0))
    start = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, start + 5, 65_000, 65_000)
    return bytes(data)


@pytest.mark.parametrize("number", [0, 6])
@pytest.mark.parametrize("made", [huge_png, huge_jpeg])
def test_a_picture_of_gigapixels_is_refused_by_its_header(refused, layouts, made, number: int) -> None:
    folder = layouts.go()
    frame = folder / "frames" / f"frame_{number:06d}.jpg"
    frame.write_bytes(made())
    assert f"frame_{number:06d}.jpg is " in refused(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("1 2\n3 4\n5 6\n", "6.lms has 3 points; at least 53 are needed"),
        ("", "6.lms has 0 points"),
        ("the left eye is here\n", "6.lms has a line that is not an x and a y: 'the left eye is here'"),
        ("1 two\n" * 110, "6.lms has something that is not a number: 'two'"),
        ("1 2 3\n" * 110, "6.lms has a line that is not an x and a y: '1 2 3'"),
        ("1\n" * 220, "6.lms has a line that is not an x and a y: '1'"),
        ("nan 5\n" * 110, "6.lms has coordinates that are not finite numbers"),
        ("5 -inf\n" * 110, "6.lms has coordinates that are not finite numbers"),
        ("5 5\n" * 109 + "5 1e999\n", "6.lms has coordinates that are not finite numbers"),
        ("\x00\xff" * 500, "6.lms has a line that is not"),
        ("5 5\n" * 40_000, "6.lms has 160000 bytes, more than the 65536 allowed"),
    ],
    ids=["3 points", "empty", "text", "a word", "three columns", "one column", "nan", "infinite", "too large", "binary", "long"],
)
def test_bad_landmarks(refused, layouts, content: str, says: str) -> None:
    folder = layouts.research()
    (folder / "landmarks" / "6.lms").write_text(content, encoding="latin-1")
    assert f"landmarks has a bad file: {says}" in refused(folder)


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (np.zeros((FRAMES, 52, 2)), "float64 of shape (12, 52, 2)"),
        (np.zeros((FRAMES, 68, 3)), "float64 of shape (12, 68, 3)"),
        (np.zeros((FRAMES, 136)), "float64 of shape (12, 136)"),
        (np.zeros((FRAMES, 68, 2), "U5"), "of shape (12, 68, 2)"),
        (np.zeros((FRAMES, 68, 2), complex), "complex128 of shape"),
        (np.zeros((FRAMES - 1, 68, 2)) + points(0, 68), "has 11 frames with landmarks, but frames has 12 frames"),
    ],
    ids=["points", "columns", "flat", "text", "complex", "count"],
)
def test_a_bad_array_of_landmarks(refused, layouts, stored: np.ndarray, says: str) -> None:
    folder = layouts.go()
    (folder / "crop_rects.json").unlink()
    np.save(folder / "landmarks_2d.npy", stored)
    said = refused(folder)
    assert "landmarks_2d.npy " in said
    assert says in said


def test_an_array_whose_header_lies_about_its_size(refused, layouts, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 68, 2)))
    data = (tmp_path / "a.npy").read_bytes().replace(b"(2, 68, 2), }        ", b"(200000000, 68, 2), }")
    (tmp_path / "a.npy").write_bytes(data)
    assert "a.npy is not a NumPy array of numbers, or is truncated" in refused(layouts.go(), "--landmarks", tmp_path / "a.npy")


def landmark_more(layouts: Layouts) -> Path:
    folder = layouts.research()
    (folder / "landmarks" / f"{FRAMES}.lms").write_text(lms_text(points(0)))
    return folder


def landmark_less(layouts: Layouts, number: int) -> Path:
    folder = layouts.research()
    (folder / "landmarks" / f"{number}.lms").unlink()
    return folder


def picture_less(layouts: Layouts) -> Path:
    folder = layouts.research()
    (folder / "full_body_img" / f"{FRAMES - 1}.jpg").unlink()
    return folder


def rectangles_of(layouts: Layouts, count: int) -> Path:
    folder = layouts.go()
    (folder / "crop_rects.json").write_text(json.dumps([square(0)] * count))
    return folder


COUNTS: dict[str, tuple[Callable[[Layouts], Path], str]] = {
    "a landmark more": (landmark_more, "landmarks has 13 frames with landmarks, but full_body_img has 12 frames"),
    "a picture less": (picture_less, "landmarks has 12 frames with landmarks, but full_body_img has 11 frames"),
    "no first landmark": (lambda layouts: landmark_less(layouts, 0), "landmarks has no landmarks for frame 0, at the beginning"),
    "no last landmark": (lambda layouts: landmark_less(layouts, 11), "landmarks has no landmarks for frame 11, at the end"),
    "a rectangle more": (lambda layouts: rectangles_of(layouts, 13), "crop_rects.json has 13 rectangles, but frames has 12"),
    "a rectangle less": (lambda layouts: rectangles_of(layouts, 11), "crop_rects.json has 11 rectangles, but frames has 12"),
}


@pytest.mark.parametrize("change", COUNTS)
def test_counts_that_do_not_match(refused, layouts, change: str) -> None:
    made, says = COUNTS[change]
    assert says in refused(made(layouts))


def test_a_gap_in_the_pictures(refused, layouts) -> None:
    folder = layouts.research()
    (folder / "full_body_img" / "5.jpg").unlink()
    assert "full_body_img frame 5 is missing" in refused(folder)


@pytest.mark.parametrize("content", [b"", b"not a video", bytes(5000)], ids=["zero bytes", "text", "zeros"])
def test_a_video_that_is_none(refused, layouts, content: bytes) -> None:
    folder = layouts.package()
    (folder / "full_body_video.mp4").write_bytes(content)
    said = refused(folder)
    assert (
        "full_body_video.mp4 is empty" in said if not content else "full_body_video.mp4 is not a video, or is truncated" in said
    )


def test_a_playlist_is_no_video(refused, layouts, tmp_path: Path) -> None:
    """It could name any file, or an address."""
    write_video(tmp_path / "real.mp4")
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'real.mp4'}\n#EXT-X-ENDLIST\n")
    rects = layouts.keyed_rects(tmp_path / "rects.json")
    net = layouts.onnx(tmp_path / "nets" / "net.onnx", network())
    assert "list.mp4 is not a video" in refused(playlist, "--rectangles", rects, "--checkpoint", net)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("aud_ave.npy", b"", "aud_ave.npy is empty"),
        ("aud_ave.npy", b"\x93NUMPY\x01\x00garbage", "aud_ave.npy is not a NumPy array of numbers, or is truncated"),
        ("aud_ave.bin", bytes(2048 * 11 + 4), "aud_ave.bin has 22532 bytes, which are not whole rows of 512 float32"),
        ("aud_ave.bin", b"\xff" * 2048 * 11, "aud_ave.bin holds values that are not finite numbers"),
        ("aud_ave.npy", npy(np.zeros((11, 1024), np.float32)), "aud_ave.npy holds float32 of shape (11, 1024); expected float32"),
    ],
)
def test_features_that_cannot_be_used_are_left_out(run, layouts, models_root: Path, name: str, content: bytes, says: str) -> None:
    """Sound needs none, so they are no reason to refuse the rest."""
    folder = layouts.go()
    (folder / name).write_bytes(content)
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert f"warning: {says}" in result.stdout
    assert "it is left out" in result.stdout
    assert load_avatar(models_root / "ada").features_path is None
    quiet = run(folder, "--no-features", avatar_id="eve")
    assert quiet.exit_code == 0, quiet.output
    assert says not in quiet.output
    assert f"passed over   {name}: --no-features" in quiet.stdout


@pytest.mark.parametrize(
    "path",
    [
        "frames",
        "frames/frame_000003.jpg",
        "crop_rects.json",
        "landmarks/3.lms",
        "checkpoint/model_best.onnx",
        "aud_ave.npy",
        "video",
    ],
)
def test_a_link_that_leads_out_of_the_source(refused, layouts, tmp_path: Path, path: str) -> None:
    folder = layouts.package(rect_file=False) if path == "video" else layouts.go()
    if path == "landmarks/3.lms":
        (folder / "crop_rects.json").unlink()
        layouts.landmarks(folder / "landmarks")
    if path == "aud_ave.npy":
        np.save(folder / path, np.zeros((12, 512), np.float32))
    inside = folder / ("full_body_video.mp4" if path == "video" else path)
    outside = tmp_path / f"outside {inside.name}"
    inside.rename(outside)
    inside.symlink_to(outside)
    assert " leads out of " in refused(folder)


def test_a_link_that_stays_in_the_source_is_followed(run, layouts) -> None:
    folder = layouts.go()
    (folder / "frames").rename(folder / "pictures")
    (folder / "frames").symlink_to("pictures")
    assert run(folder).exit_code == 0


def test_a_pipe_does_not_hang_the_import(refused, layouts) -> None:
    folder = layouts.research()
    (folder / "landmarks" / "3.lms").unlink()
    os.mkfifo(folder / "landmarks" / "3.lms")
    assert "3.lms is not a regular file" in refused(folder)


def test_sources_that_are_none(refused, layouts, tmp_path: Path) -> None:
    assert "is missing" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    said = refused(tmp_path / "empty")
    assert "empty has no frames: neither numbered pictures nor a video" in said
    assert "empty has no network" in said
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt is neither a folder nor a video by its name" in refused(tmp_path / "notes.txt")
    assert "plain has neither rectangles nor landmarks: give --rectangles or --landmarks" in refused(layouts.plain(rects=False))


def test_several_videos_are_not_chosen_from(refused, layouts) -> None:
    folder = layouts.root / "takes"
    write_video(folder / "one.mp4")
    write_video(folder / "two.mp4")
    assert "there are several videos (one.mp4, two.mp4): name the one that is meant" in refused(folder)


def test_an_avatar_is_no_source(run, refused, layouts, models_root: Path) -> None:
    run(layouts.go())
    assert "is an avatar already (avatar.yaml): copy the folder" in refused(models_root / "ada", "--replace", "--id", "bea")


def test_a_source_is_not_replaced_by_what_is_made_of_it(refused, layouts, models_root: Path) -> None:
    models_root.mkdir()
    folder = layouts.go().rename(models_root / "ada")
    assert "would be replaced by the avatar made from it: choose another id" in refused(folder, "--replace")


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--mask", "5,5,310", "--mask '5,5,310': expected four whole numbers"),
        ("--mask", "a,b,c,d", "expected four whole numbers"),
        ("--mask", "5,5,316,305", "must cover something and lie inside 320x320"),
        ("--id", "../ada", "'../ada' is not an avatar id"),
        ("--rectangles", "nowhere.json", "nowhere.json is missing"),
        ("--landmarks", "nowhere", "nowhere is missing"),
        ("--checkpoint", "nowhere.onnx", "nowhere.onnx is missing"),
        ("--audio-encoder", "nowhere.onnx", "nowhere.onnx is missing"),
    ],
)
def test_bad_options(refused, layouts, option: str, value: str, says: str) -> None:
    assert says in refused(layouts.go(), option, value)


def test_everything_that_is_wrong_is_said_at_once(refused, layouts) -> None:
    folder = layouts.research()
    (folder / "landmarks" / "3.lms").write_text("1 2\n")
    (folder / "landmarks" / "8.lms").write_text("x y\n")
    (folder / "aud_ave.npy").write_bytes(b"")
    (layouts.root / "checkpoint" / "ada" / "net.onnx").write_bytes(b"?")
    said = refused(folder)
    assert all(
        words in said for words in ("3.lms has 1 points", "8.lms has something", "aud_ave.npy is empty", "net.onnx is not an")
    )
