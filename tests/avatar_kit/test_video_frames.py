"""Frames out of a video in any order, held to what PyAV gives of it from beginning to end."""

from __future__ import annotations

import gc
import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from avatar_kit.held import Held
from avatar_kit.safe_files import FileProblem, sha256_of
from avatar_kit.video import files, reader
from avatar_kit.video.frames import VideoFrames, open_frames
from avatar_kit.video.index import index_video
from avatar_kit.video.reader import NoStart, frames_from
from avatar_tools.video_check import check_video

from ..filmed import watch_decoding

Pictures = list[NDArray[np.uint8]]
COUNT = 75


@dataclass(frozen=True)
class Kind:
    """How a video is made."""

    name: str
    codec: str = "libx264"
    options: str = ""
    """x264's or x265's own."""
    size: tuple[int, int] = (96, 64)
    pixels: str = "yuv420p"
    distance: int = 25
    """At most so many frames from keyframe to keyframe."""


KINDS = [
    Kind("b-frames.mp4", options="bframes=3:scenecut=0"),
    Kind("b-frames.mkv", options="bframes=3:scenecut=0"),
    Kind("b-frames.ts", options="bframes=3:scenecut=0"),
    Kind("b-frames.avi", options="bframes=3:scenecut=0"),
    Kind("open.mp4", options="open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"),
    Kind("refresh.mp4", options="intra-refresh=1"),
    Kind("long.mp4", distance=1000),
    Kind("odd.mkv", size=(97, 65), pixels="yuv444p"),
    Kind("hevc.mp4", codec="libx265", options="log-level=none:open-gop=1:keyint=25"),
    Kind("part2.mp4", codec="mpeg4", distance=12),
    Kind("part2.avi", codec="mpeg4", distance=12),
    Kind("motion.avi", codec="mjpeg", pixels="yuvj420p"),
    Kind("pro.mov", codec="prores_ks", pixels="yuv422p10le"),
]


def drawn(index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A field that moves behind a disc; no two frames are alike."""
    width, height = size
    field = np.random.default_rng(5).integers(0, 255, (8, 12, 3), np.uint8)
    picture = np.roll(cv2.resize(field, size), index, axis=1)
    cv2.circle(picture, (index % width, height // 2), 9, (index * 7 % 256, 90, 200), -1)
    picture[:6] = index * 3 % 256
    return picture


def write(path: Path, kind: Kind, *, count: int = COUNT, rate: int = 25, stamps: Sequence[int] | None = None) -> Path:
    """`stamps`: when each frame is shown, in 1/1000 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *kind.size, kind.pixels
        stream.options = {"g": str(kind.distance)}
        if kind.codec == "mpeg4":
            stream.options |= {"bf": "2"}
        if kind.options:
            stream.options |= {f"{kind.codec.removeprefix('lib')}-params": kind.options}
        if stamps:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(drawn(index, kind.size), format="bgr24")
            if stamps:
                frame.pts, frame.time_base = stamps[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def in_order(path: Path) -> Pictures:
    """The judge: PyAV's plain decoding from the first frame to the last."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [frame.reformat(format="bgr24", interpolation=Interpolation.BICUBIC).to_ndarray() for frame in frames]


def frames_of(path: Path, pictures: Pictures, **more: Any) -> VideoFrames:
    height, width, _ = pictures[0].shape
    return VideoFrames(Held(path), count=len(pictures), width=width, height=height, **more)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], tuple[Path, Pictures]]:
    """A video of each kind and its frames, made once."""
    folder = tmp_path_factory.mktemp("films")
    made: dict[str, tuple[Path, Pictures]] = {}

    def film(kind: Kind) -> tuple[Path, Pictures]:
        if kind.name not in made:
            path = write(folder / kind.name, kind)
            made[kind.name] = path, in_order(path)
        return made[kind.name]

    return film


def kind_named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_frame_in_any_order(films: Callable[..., tuple[Path, Pictures]], kind: Kind, data: st.DataObject) -> None:
    path, pictures = films(kind)
    assert len(pictures) == COUNT
    frames = frames_of(path, pictures)
    for index in data.draw(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=12)):
        np.testing.assert_array_equal(frames.read(index), pictures[index])
    frames.close()


@pytest.mark.parametrize("way", ["one by one", "all"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_in_order_each_frame_is_decoded_once(
    films: Callable[..., tuple[Path, Pictures]], kind: Kind, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pictures = films(kind)
    decoded = counted(monkeypatch)
    frames = frames_of(path, pictures)
    if way == "all":
        shown = [(index, read()) for index, read in frames.in_order()]
    else:
        shown = [(index, frames.read(index)) for index in range(COUNT)]
    assert [index for index, _ in shown] == list(range(COUNT))
    for (_, picture), wanted in zip(shown, pictures, strict=True):
        np.testing.assert_array_equal(picture, wanted)
    assert len(decoded) == COUNT


def test_backwards_and_side_by_side_little_is_decoded_twice(
    films: Callable[..., tuple[Path, Pictures]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pictures = films(kind_named("long.mp4"))
    decoded = counted(monkeypatch)
    frames = frames_of(path, pictures)
    with ThreadPoolExecutor(6) as pool:
        for index, shown in enumerate(pool.map(frames.read, range(COUNT))):
            np.testing.assert_array_equal(shown, pictures[index])
    for index in reversed(range(COUNT)):
        np.testing.assert_array_equal(frames.read(index), pictures[index])
    assert len(decoded) < 1.5 * COUNT


def test_callers_at_four_places_go_on_from_where_they_are(
    films: Callable[..., tuple[Path, Pictures]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a video with one keyframe."""
    path, pictures = films(kind_named("long.mp4"))
    frames = frames_of(path, pictures)
    places = [60, 40, 20, 0]
    for place in places:
        frames.read(place)
    decoded = counted(monkeypatch)
    monkeypatch.setattr("avatar_kit.video.frames._RECENT_BYTES", 0)
    for step in range(1, 11):
        for place in places:
            np.testing.assert_array_equal(frames.read(place + step), pictures[place + step])
    assert not decoded, "none of them is entered again"


@pytest.mark.parametrize("stop_at", [0, 1, 40, COUNT])
def test_who_reads_singly_meanwhile_gets_the_same_and_the_end_leaves_nothing_open(
    films: Callable[..., tuple[Path, Pictures]], stop_at: int
) -> None:
    path, pictures = films(kind_named("open.mp4"))
    frames = frames_of(path, pictures)
    in_order = frames.in_order()
    for index, read in itertools.islice(in_order, stop_at):
        other = index * 7 % COUNT
        np.testing.assert_array_equal(frames.read(other), pictures[other])
        np.testing.assert_array_equal(read(), pictures[index])
    in_order.close()
    assert open_times(path) == 1, "what is held"
    np.testing.assert_array_equal(frames.read(3), pictures[3])


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of each frame that is decoded."""
    decoded: list[int] = []
    watch_decoding(monkeypatch, decoded.append)
    return decoded


def test_threads_in_any_order_get_the_right_frames(films: Callable[..., tuple[Path, Pictures]]) -> None:
    path, pictures = films(kind_named("open.mp4"))
    frames = frames_of(path, pictures)
    order = random.Random(1).choices(range(COUNT), k=150)
    with ThreadPoolExecutor(8) as pool:
        for index, shown in zip(order, pool.map(frames.read, order), strict=True):
            np.testing.assert_array_equal(shown, pictures[index])


def test_a_seek_that_leads_elsewhere_is_noticed(
    films: Callable[..., tuple[Path, Pictures]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers without an index seek as they can."""
    path, pictures = films(kind_named("b-frames.mkv"))

    class Astray:
        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def seek(self, offset: int, **options: Any) -> None:
            self._container.seek(offset + 1200, **options)

    @contextmanager
    def opened(video: Path) -> Iterator[tuple[Any, Any]]:
        with files.opened_video(video) as (container, stream):
            yield Astray(container), stream

    monkeypatch.setattr(reader, "opened_video", opened)
    frames = frames_of(path, pictures)
    for index in (70, 3, 30, 55):
        np.testing.assert_array_equal(frames.read(index), pictures[index])


def shifted(path: Path, source: Path, frames: int) -> Path:
    """The same packets, shown earlier: those before zero an edit list leaves out."""
    with av.open(str(source)) as old, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is None:
                continue
            assert packet.time_base
            shift = int(frames / 25 / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = stream
            new.mux(packet)
    return path


def test_an_edit_list_that_begins_between_keyframes(films: Callable[..., tuple[Path, Pictures]], tmp_path: Path) -> None:
    source, whole = films(kind_named("b-frames.mp4"))
    path = shifted(tmp_path / "cut.mp4", source, 10)
    pictures = in_order(path)
    assert len(pictures) == COUNT - 10
    np.testing.assert_array_equal(pictures[0], whole[10])
    frames = frames_of(path, pictures)
    for index in (40, 0, 7, 64, 14, 15, 16):
        np.testing.assert_array_equal(frames.read(index), pictures[index])
    assert check_video(path, width=96, height=64) == COUNT - 10


def test_what_the_header_says_of_the_count_is_not_believed(films: Callable[..., tuple[Path, Pictures]], tmp_path: Path) -> None:
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


def test_another_count_or_size_is_refused(films: Callable[..., tuple[Path, Pictures]]) -> None:
    path, _ = films(kind_named("b-frames.mp4"))
    with pytest.raises(FileProblem, match="has 75 frames, the avatar has 74"):
        VideoFrames(Held(path), count=74, width=96, height=64).read(0)
    with pytest.raises(FileProblem, match="has frame 0 of 96x64, the avatar is 64x96"):
        VideoFrames(Held(path), count=75, width=64, height=96).read(0)


def body_of(data: bytes) -> tuple[int, int]:
    """Where the packets lie in an MP4 file."""
    start = data.index(b"mdat") + 4
    return start + 800, start + int.from_bytes(data[start - 8 : start - 4], "big") - 8


@pytest.mark.parametrize("name", ["b-frames.mp4", "part2.mp4", "hevc.mp4"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_frame_of_a_damaged_video_is_wrong(
    films: Callable[..., tuple[Path, Pictures]], tmp_path: Path, name: str, data: st.DataObject
) -> None:
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
    films: Callable[..., tuple[Path, Pictures]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    decoded = counted(monkeypatch)
    for index in said:
        with pytest.raises(FileProblem):
            frames.read(index)
    assert not decoded, "it is known"
    (tmp_path / "a.mp4").write_bytes(source.read_bytes())
    np.testing.assert_array_equal(frames.read(40), pictures[40], "mended")


@pytest.mark.parametrize("name", ["b-frames.mp4", "b-frames.mkv", "b-frames.ts", "part2.avi"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.9])
def test_a_truncated_video_is_a_problem_and_no_crash(
    films: Callable[..., tuple[Path, Pictures]], tmp_path: Path, name: str, part: float
) -> None:
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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_checking_tells_progress_and_the_count(films: Callable[..., tuple[Path, Pictures]], kind: Kind) -> None:
    path, _ = films(kind)
    told: list[tuple[int, int]] = []
    width, height = kind.size
    assert check_video(path, width=width, height=height, progress=lambda *done: told.append(done)) == COUNT
    assert told == [(done, COUNT) for done in range(1, COUNT + 1)]
    with pytest.raises(FileProblem, match=f"has frame 0 of {width}x{height}, expected 320x240"):
        check_video(path, width=320, height=240)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_a_keyframe_gives_is_what_comes_in_order(films: Callable[..., tuple[Path, Pictures]], kind: Kind) -> None:
    """Or nothing: a start at which decoding cannot begin must not give frames."""
    path, pictures = films(kind)
    index = index_video(path)
    for start in index.starts:
        entered = frames_from(path, index, start)
        try:
            for number, frame in enumerate(entered, start.frame):
                shown = frame.reformat(format="bgr24", interpolation=Interpolation.BICUBIC).to_ndarray()
                np.testing.assert_array_equal(shown, pictures[number])
        except NoStart:
            assert kind.name in {"open.mp4", "refresh.mp4"}


def test_closing_lets_go_of_the_file(films: Callable[..., tuple[Path, Pictures]]) -> None:
    path, pictures = films(kind_named("b-frames.mp4"))
    frames = frames_of(path, pictures)
    frames.read(10)
    assert open_times(path) > 1
    frames.close()
    assert open_times(path) == 1
    np.testing.assert_array_equal(frames.read(11), pictures[11])
    for index in range(12, COUNT):
        frames.read(index)
    assert open_times(path) == 1, "at the end of the video nobody needs it"


def test_who_forgets_it_leaves_no_file_open(films: Callable[..., tuple[Path, Pictures]]) -> None:
    path, pictures = films(kind_named("b-frames.mp4"))
    gc.disable()
    try:
        frames = frames_of(path, pictures)
        for index in (60, 30, 3):
            frames.read(index)
        assert open_times(path) > 1
        del frames
        assert open_times(path) == 0
    finally:
        gc.enable()


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


def open_times(path: Path) -> int:
    return [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()].count(str(path))
