"""Videos: every frame in order, at the video's own rate or at 25 a second, and rectangles that go with either count."""

from __future__ import annotations

import json
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from avatar_kit.avatar import load_avatar
from avatar_kit.safe_files import FileProblem
from avatar_tools.importing.videos import open_video

from .conftest import network, number_of, picture, square, write_video


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.avi", "mjpeg"), ("a.webm", "libvpx"), ("a.mov", "libx264")]
)
def test_every_frame_in_order(tmp_path: Path, name: str, codec: str) -> None:
    clip = open_video(write_video(tmp_path / name, 25, codec=codec))
    assert (clip.count, clip.own_count, clip.converted) == (25, 25, False)
    assert [number_of(shown) for shown in clip.pictures()] == list(range(25))
    decoded = [cv2.imdecode(np.frombuffer(file.data, np.uint8), cv2.IMREAD_COLOR) for file in clip.files()]
    assert [number_of(shown) for shown in decoded] == list(range(25))
    assert all(np.abs(one.astype(int) - other).mean() < 2 for one, other in zip(decoded, clip.pictures(), strict=True))


def shown_by_ffmpeg_rule(begins: list[Fraction], end: Fraction) -> list[int]:
    """The frame on screen in each 1/25 s, its beginning rounded half up to that raster: in fractions, one by one."""
    ticks = [int(begin * 25 + Fraction(1, 2)) for begin in begins]
    count = max(int(end * 25 + Fraction(1, 2)), ticks[-1] + 1)
    return [max(index for index, tick in enumerate(ticks) if tick <= slot) for slot in range(count)]


@pytest.mark.parametrize("rate", [30, 24, 50, 60, 15, 5, Fraction(30000, 1001), Fraction(24000, 1001)], ids=str)
def test_other_rates_become_25(tmp_path: Path, rate: Fraction | int) -> None:
    clip = open_video(write_video(tmp_path / "a.mp4", 24, rate=rate))
    begins = [Fraction(index) / rate for index in range(24)]
    wanted = shown_by_ffmpeg_rule(begins, 24 / Fraction(rate))
    assert clip.own_index.tolist() == wanted
    assert clip.converted
    assert [number_of(shown) for shown in clip.pictures()] == wanted
    decoded = [cv2.imdecode(np.frombuffer(file.data, np.uint8), cv2.IMREAD_COLOR) for file in clip.files()]
    assert [number_of(shown) for shown in decoded] == wanted


@pytest.mark.parametrize(("rate", "fits"), [(Fraction(1, 2), True), (Fraction(2, 5), False), (Fraction(1, 1000), False)], ids=str)
def test_a_video_out_of_proportion_is_refused(tmp_path: Path, rate: Fraction, fits: bool) -> None:
    """A header that says any rate could plan hundreds of thousands of frames, gigabytes of them, of a small file."""
    video = write_video(tmp_path / "a.mkv", 6, stamps=[int(1000 / rate) * number for number in range(6)], rate=rate)
    if fits:
        assert open_video(video).count == 300
        return
    with pytest.raises(FileProblem, match=r"would give \d+ frames, 25 a second, of 6 pictures"):
        open_video(video)


def test_a_rate_that_varies(tmp_path: Path) -> None:
    stamps = [0, 40, 55, 70, 200, 240, 400]
    clip = open_video(write_video(tmp_path / "a.mkv", 7, stamps=stamps))
    shown = [number_of(frame) for frame in clip.pictures()]
    assert shown[:11] == [0, 2, 3, 3, 3, 4, 5, 5, 5, 5, 6]
    assert set(shown[11:]) <= {6}


@pytest.mark.parametrize("counted", ["own", "at 25"])
def test_rectangles_may_count_the_videos_frames_or_those_at_25(
    run, layouts, tmp_path: Path, models_root: Path, counted: str
) -> None:
    video = write_video(tmp_path / "a.mp4", 24, rate=30)
    clip = open_video(video)
    numbers = range(24) if counted == "own" else range(clip.count)
    (tmp_path / "rects.json").write_text(json.dumps([square(index) for index in numbers]))
    net = layouts.onnx(tmp_path / "nets" / "net.onnx", network())
    result = run(video, "--rectangles", tmp_path / "rects.json", "--checkpoint", net)
    assert result.exit_code == 0, result.output
    assert "20 frames at 25 a second from the video's 24" in result.stdout
    avatar = load_avatar(models_root / "ada")
    assert avatar.frame_count == 20
    for index, rect in enumerate(avatar.rects):
        of = number_of(avatar.read_frame(index)) if counted == "own" else index
        assert [rect.x1, rect.y1, rect.x2, rect.y2] == square(of)


def test_a_count_that_fits_neither_is_refused(refused, layouts, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 24, rate=30)
    (tmp_path / "rects.json").write_text(json.dumps([square(index) for index in range(22)]))
    net = layouts.onnx(tmp_path / "nets" / "net.onnx", network())
    said = refused(video, "--rectangles", tmp_path / "rects.json", "--checkpoint", net)
    assert "rects.json has 22 rectangles, but a.mp4 has 24 (or, at 25 a second, 20) frames" in said


def read_by_opencv(path: Path) -> list[np.ndarray]:
    """OpenCV's own reader, which the family's tools use."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames


def colourful(index: int, width: int, height: int) -> np.ndarray:
    noise = np.random.default_rng(index).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


KINDS: dict[str, tuple[str, str, dict[str, int]]] = {
    "4:2:0": ("libx264", "yuv420p", {}),
    "4:2:2": ("libx264", "yuv422p", {}),
    "4:4:4": ("libx264", "yuv444p", {}),
    "10 bits": ("libx264", "yuv420p10le", {}),
    "10 bits 4:2:2": ("libx264", "yuv422p10le", {}),
    "10 bits 4:4:4": ("libx264", "yuv444p10le", {}),
    "ProRes": ("prores_ks", "yuv422p10le", {}),
    "full range": ("libx264", "yuv420p", {"color_range": 2}),
    "BT.709": ("libx264", "yuv420p", {"colorspace": 1}),
    "BT.709 of full range": ("libx264", "yuv420p", {"colorspace": 1, "color_range": 2}),
    "BT.2020 of 10 bits": ("libx264", "yuv420p10le", {"colorspace": 9}),
    "RGB": ("ffv1", "bgr0", {}),
    "RGB of 16 bits": ("ffv1", "gbrp16le", {}),
    "grey": ("ffv1", "gray", {}),
    "see-through": ("ffv1", "yuva444p", {}),
}


SIZES = {"landscape": (160, 96), "portrait": (96, 160)}
ODD = {"odd": (161, 97)}  # not where a colour stands for two columns


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        pytest.param(kind, size, id=f"{kind}, {name}")
        for kind, (codec, form, _) in KINDS.items()
        for name, size in (SIZES | ODD if codec == "ffv1" or "444" in form else SIZES).items()
    ],
)
def test_pictures_are_those_that_training_saw(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    codec, form, properties = KINDS[kind]
    path = tmp_path / ("a.mkv" if codec == "ffv1" else "a.mov")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, form
        if codec == "libx264":
            stream.options = {"qp": "6"}
        for name, value in properties.items():
            setattr(stream.codec_context, name, value)
        for index in range(4):
            frame = av.VideoFrame.from_ndarray(colourful(index, *size), format="bgr24").reformat(
                format=form, dst_colorspace=properties.get("colorspace"), dst_color_range=properties.get("color_range")
            )
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = open_video(path)
    assert (clip.count, clip.width, clip.height) == (4, *size)
    for shown, wanted in zip(clip.pictures(), read_by_opencv(path), strict=True):
        np.testing.assert_array_equal(shown, wanted)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_phone_held_sideways(tmp_path: Path, turn: int) -> None:
    """OpenCV's own reader, which the family's tools use, is the judge."""
    path = turned(write_video(tmp_path / "a.mp4", 3), turn)
    capture = cv2.VideoCapture(str(path))
    wanted = capture.read()[1]
    capture.release()
    clip = open_video(path)
    assert (clip.height, clip.width) == wanted.shape[:2]
    assert (clip.height > clip.width) == (turn != 180)
    assert np.abs(next(clip.pictures()).astype(int) - wanted).mean() < 2


def turned(path: Path, degrees: int) -> Path:
    """Puts a matrix of rotation into the video's track header."""
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    a, b, c, d = (value * 0x10000 for value in matrix)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: the matrix is the tenth word after version and flags
    struct.pack_into(">9i", data, start, a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_video_cut_off_is_not_half_imported(tmp_path: Path, part: float) -> None:
    whole = write_video(tmp_path / "whole.mp4", 25).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(FileProblem):
        list(open_video(tmp_path / "cut.mp4").files())
    mkv = write_video(tmp_path / "whole.mkv", 25).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(mkv[: int(len(mkv) * part)])
    try:
        clip = open_video(tmp_path / "cut.mkv")
        count = len(list(clip.files()))
    except FileProblem:
        return
    assert count == clip.own_count < 25, "a stream that ends early is a shorter stream: the count of rectangles tells"


def test_a_video_whose_middle_is_overwritten_is_refused_or_whole(tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "a.mp4", 25, codec="mpeg4").read_bytes())
    middle = data.index(b"mdat") + 4 + 2000
    data[middle : middle + 4000] = b"\xff" * 4000
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(FileProblem, match="damaged"):
        list(open_video(tmp_path / "a.mp4").files())


def test_few_frames_are_in_memory_at_once(tmp_path: Path, monkeypatch) -> None:
    """The decoder may not run ahead of who takes the frames."""
    from avatar_tools.importing import videos

    decoded = []
    original = videos.decoded

    def counting(container, stream):
        for frame in original(container, stream):
            decoded.append(None)
            yield frame

    clip = open_video(write_video(tmp_path / "a.mp4", 100))
    monkeypatch.setattr(videos, "decoded", counting)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    files = clip.files()
    for taken in range(1, 60):
        next(files)
        assert len(decoded) <= taken + 6
    files.close()
    assert picture(0).shape == (96, 160, 3)
