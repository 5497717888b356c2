"""Videos that are damaged, or none that an avatar can keep: refused with the reason, and no wrong frame before."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar_kit.held import Held
from avatar_kit.safe_files import FileProblem, sha256_of
from avatar_kit.video.frames import VideoFrames, open_frames
from avatar_tools.video_check import check_video

from ..filmed import watch_decoding
from .encoded_videos import COUNT, Films, Kind, frames_of, kind_named, write


def test_what_the_header_says_of_the_count_is_not_believed(films: Films, tmp_path: Path) -> None:
    source, pictures = films(kind_named("motion.avi"))
    data = bytearray(source.read_bytes())
    for place in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):  # total frames, length of the stream
        data[place : place + 4] = (900).to_bytes(4, "little")
    path = tmp_path / "lies.avi"
    path.write_bytes(data)
    assert open_frames(Held(path)).count == COUNT
    np.testing.assert_array_equal(frames_of(path, pictures).read(74), pictures[74])


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        (Kind("a.mp4"), {"rate": 30}, r"does not run at 25 frames a second throughout \(it says 30\)"),
        (Kind("a.mkv"), {"stamps": [*range(0, 440, 40), 405, *range(480, 1000, 40)], "count": 25}, "does not run at 25"),
        (Kind("a.webm", codec="libvpx"), {}, "is vp8, of which no single frames can be read"),
    ],
    ids=["another rate", "a rate that varies", "a codec with hidden frames"],
)
def test_what_can_not_be_kept(tmp_path: Path, kind: Kind, more: dict[str, Any], says: str) -> None:
    path = write(tmp_path / kind.name, kind, **more)
    for refusing in (partial(open_frames, Held(path)), partial(check_video, path, width=96, height=64)):
        with pytest.raises(FileProblem, match=f"{says}.*import it without --keep-video, which extracts its frames"):
            refusing()


def test_another_count_or_size_is_refused(films: Films) -> None:
    path, _ = films(kind_named("b-frames.mp4"))
    with pytest.raises(FileProblem, match="has 75 frames, the avatar has 74"):
        VideoFrames(Held(path), count=74, width=96, height=64).read(0)
    with pytest.raises(FileProblem, match="has frame 0 of 96x64, the avatar is 64x96"):
        VideoFrames(Held(path), count=75, width=64, height=96).read(0)


def body_of(data: bytes) -> tuple[int, int]:
    """First and last byte of the packets in an MP4 file."""
    start = data.index(b"mdat") + 4
    return start + 800, start + int.from_bytes(data[start - 8 : start - 4], "big") - 8


@pytest.mark.parametrize("name", ["b-frames.mp4", "part2.mp4", "hevc.mp4"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_frame_of_a_damaged_video_is_wrong(films: Films, tmp_path: Path, name: str, data: st.DataObject) -> None:
    """Decoders overlook some damage: the checksum does not."""
    source, pictures = films(kind_named(name))
    content = bytearray(source.read_bytes())
    first, last = body_of(bytes(content))
    start = data.draw(st.integers(first, last - 400))
    noise = data.draw(st.binary(min_size=1, max_size=400))
    path = tmp_path / name
    path.write_bytes(content)
    frames = frames_of(path, pictures, sha256=sha256_of(source))
    np.testing.assert_array_equal(frames.read(3), pictures[3])
    content[start : start + len(noise)] = noise
    path.write_bytes(content)
    for index in data.draw(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=4)):
        if content == source.read_bytes():
            np.testing.assert_array_equal(frames.read(index), pictures[index])
            continue
        with pytest.raises(FileProblem, match="has changed: its SHA-256"):
            frames.read(index)
    frames.close()


def blotted(source: Path, path: Path, part: float) -> Path:
    """With 300 bytes overwritten there."""
    content = bytearray(source.read_bytes())
    first, last = body_of(bytes(content))
    at = first + int((last - first) * part)
    content[at : at + 300] = b"\x00\xff" * 150
    path.write_bytes(content)
    return path


def test_damage_without_a_checksum_costs_the_frames_up_to_the_next_keyframe(
    films: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, pictures = films(kind_named("b-frames.mp4"))
    frames = frames_of(blotted(source, tmp_path / "a.mp4", 0.6), pictures)
    said = {}
    for index in range(COUNT):
        try:
            np.testing.assert_array_equal(frames.read(index), pictures[index])
        except FileProblem as problem:
            said[index] = str(problem)
    assert sorted(said) == list(range(min(said), 50)), "from the damage to the next keyframe"
    assert min(said) > 25
    assert set(said.values()) == {f"is damaged or truncated: frames {min(said)} to 49 cannot be decoded"}
    for index, read in frames.in_order():
        if index in said:
            with pytest.raises(FileProblem, match=said[index]):
                read()
        else:
            np.testing.assert_array_equal(read(), pictures[index])
    decoded: list[int] = []
    watch_decoding(monkeypatch, decoded.append)
    for index in said:
        with pytest.raises(FileProblem):
            frames.read(index)
    assert not decoded, "it is known"
    (tmp_path / "a.mp4").write_bytes(source.read_bytes())
    np.testing.assert_array_equal(frames.read(40), pictures[40], "mended")


@pytest.mark.parametrize("name", ["b-frames.mp4", "b-frames.mkv", "b-frames.ts", "part2.avi"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.9])
def test_a_truncated_video_is_a_problem_and_no_crash(films: Films, tmp_path: Path, name: str, part: float) -> None:
    source, pictures = films(kind_named(name))
    path = tmp_path / name
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    frames = frames_of(path, pictures)
    refused = 0
    for index in range(0, COUNT, 6):
        try:
            np.testing.assert_array_equal(frames.read(index), pictures[index])
        except FileProblem:
            refused += 1
    assert refused
    with suppress(FileProblem):
        assert check_video(path, width=96, height=64) < COUNT


def test_a_missing_video_and_one_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="is missing"):
        Held(tmp_path / "none.mp4")
    with pytest.raises(FileProblem, match="not a regular file"):
        VideoFrames(Held(tmp_path), count=1, width=96, height=64).read(0)


def test_a_size_that_grows_on_the_way_is_refused(tmp_path: Path) -> None:
    small, large = (write(tmp_path / f"{size}.ts", Kind("", size=(size, size)), count=25) for size in (96, 128))
    path = tmp_path / "both.ts"
    with av.open(str(path), "w") as new, av.open(str(small)) as first, av.open(str(large)) as second:
        stream = new.add_stream_from_template(first.streams.video[0])
        for source, shift in ((first, 0), (second, 90_000)):  # a second
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    new.mux(packet)
    frames = VideoFrames(Held(path), count=50, width=96, height=96)
    assert frames.read(20).shape == (96, 96, 3)
    with pytest.raises(FileProblem, match="has frame 30 of 128x128, the avatar is 96x96"):
        frames.read(30)
    assert frames.read(3).shape == (96, 96, 3)
