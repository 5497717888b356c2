"""Frames out of a video in any order, held to what PyAV gives of it from beginning to end."""

from __future__ import annotations

import gc
import itertools
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar_kit.safe_files import FileProblem
from avatar_kit.video import files, reader
from avatar_kit.video.index import index_video
from avatar_kit.video.reader import NoStart, frames_from
from avatar_tools.video_check import check_video

from ..filmed import watch_decoding
from .encoded_videos import COUNT, KINDS, Films, Kind, frames_of, in_order, kind_named


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_frame_in_any_order(films: Films, kind: Kind, data: st.DataObject) -> None:
    path, pictures = films(kind)
    assert len(pictures) == COUNT
    frames = frames_of(path, pictures)
    for index in data.draw(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=12)):
        np.testing.assert_array_equal(frames.read(index), pictures[index])
    frames.close()


@pytest.mark.parametrize("way", ["one by one", "all"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_in_order_each_frame_is_decoded_once(films: Films, kind: Kind, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_backwards_and_side_by_side_little_is_decoded_twice(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pictures = films(kind_named("long.mp4"))
    decoded = counted(monkeypatch)
    frames = frames_of(path, pictures)
    with ThreadPoolExecutor(6) as pool:
        for index, shown in enumerate(pool.map(frames.read, range(COUNT))):
            np.testing.assert_array_equal(shown, pictures[index])
    for index in reversed(range(COUNT)):
        np.testing.assert_array_equal(frames.read(index), pictures[index])
    assert len(decoded) < 1.5 * COUNT


def test_callers_at_four_places_go_on_from_where_they_are(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_who_reads_singly_meanwhile_gets_the_same_and_the_end_leaves_nothing_open(films: Films, stop_at: int) -> None:
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


def test_threads_in_any_order_get_the_right_frames(films: Films) -> None:
    path, pictures = films(kind_named("open.mp4"))
    frames = frames_of(path, pictures)
    order = random.Random(1).choices(range(COUNT), k=150)
    with ThreadPoolExecutor(8) as pool:
        for index, shown in zip(order, pool.map(frames.read, order), strict=True):
            np.testing.assert_array_equal(shown, pictures[index])


def test_a_seek_that_leads_elsewhere_is_noticed(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_edit_list_that_begins_between_keyframes(films: Films, tmp_path: Path) -> None:
    source, whole = films(kind_named("b-frames.mp4"))
    path = shifted(tmp_path / "cut.mp4", source, 10)
    pictures = in_order(path)
    assert len(pictures) == COUNT - 10
    np.testing.assert_array_equal(pictures[0], whole[10])
    frames = frames_of(path, pictures)
    for index in (40, 0, 7, 64, 14, 15, 16):
        np.testing.assert_array_equal(frames.read(index), pictures[index])
    assert check_video(path, width=96, height=64) == COUNT - 10


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_checking_tells_progress_and_the_count(films: Films, kind: Kind) -> None:
    path, _ = films(kind)
    told: list[tuple[int, int]] = []
    width, height = kind.size
    assert check_video(path, width=width, height=height, progress=lambda *done: told.append(done)) == COUNT
    assert told == [(done, COUNT) for done in range(1, COUNT + 1)]
    with pytest.raises(FileProblem, match=f"has frame 0 of {width}x{height}, expected 320x240"):
        check_video(path, width=320, height=240)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_a_keyframe_gives_is_what_comes_in_order(films: Films, kind: Kind) -> None:
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


def test_closing_lets_go_of_the_file(films: Films) -> None:
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


def test_who_forgets_it_leaves_no_file_open(films: Films) -> None:
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


def open_times(path: Path) -> int:
    return [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()].count(str(path))
