"""Going through a video once, whoever waits for whatever meanwhile."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.frame_pass import FramePass
from avatar_kit.held import Held
from avatar_kit.video.cursor import VideoCursor
from avatar_kit.video.frames import VideoFrames

from ..filmed import both_forms, damage

FRAMES = 60
PATIENCE_S = 20


@pytest.fixture
def kept(avatar: Avatar, models_root: Path) -> Avatar:
    """60 frames, of which every twelfth is a keyframe."""
    return both_forms(avatar, models_root, rounds=10)[0]


@pytest.fixture
def in_four_runs(avatar: Avatar, models_root: Path) -> Avatar:
    """60 frames in as many runs as a video has decoders."""
    return both_forms(avatar, models_root, rounds=10, keyframes=15)[0]


class Takes:
    """What the pass gives, and how often each frame was decoded for it."""

    def __init__(self, avatar: Avatar, monkeypatch: pytest.MonkeyPatch, *, until: int = FRAMES) -> None:
        self.frames: dict[int, NDArray[np.uint8]] = {}
        self.order: list[int] = []
        self.wished: dict[int, frozenset[str]] = {}
        self.decoded: Counter[int] = Counter()
        self.video: VideoFrames = avatar.video  # type: ignore[assignment]
        self.had: set[int] = set()
        self._until = until
        advance = VideoCursor.advance

        def counting(cursor: VideoCursor) -> object:
            self.decoded[cursor.next] += 1
            return advance(cursor)

        monkeypatch.setattr(VideoCursor, "advance", counting)

    def is_there(self, frame: int) -> bool:
        return frame in self.had

    def take(self, frame: int, picture: NDArray[np.uint8], wished: frozenset[str]) -> bool:
        self.order.append(frame)
        self.frames[frame], self.wished[frame] = picture, wished
        return len(self.frames) < self._until


def test_nobody_waits_and_it_goes_from_the_beginning_to_the_end(kept: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = Takes(kept, monkeypatch, until=1000)
    going = FramePass[str](kept, takes.video, takes.take, is_there=takes.is_there)
    while going.step():
        pass
    going.end()
    assert takes.order == list(range(FRAMES))
    assert takes.decoded == Counter(range(FRAMES))
    for index, picture in takes.frames.items():
        np.testing.assert_array_equal(picture, kept.read_frame(index))


def test_what_is_waited_for_comes_first_from_its_keyframe_on(kept: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = Takes(kept, monkeypatch, until=1000)
    going = FramePass[str](kept, takes.video, takes.take, is_there=takes.is_there)
    for _ in range(3):
        going.step()
    wish = going.wish([39, 40], "these")
    assert wish
    while not wish.done():
        going.step()
    assert takes.order == [0, 1, 2, 36, 37, 38, 39, 40]
    assert takes.wished[38] == frozenset()
    assert takes.wished[39] == takes.wished[40] == {"these"}
    assert going.wish([1, 39], "those") is None
    while going.step():
        pass
    assert takes.order[8:] == [*range(3, 36), *range(41, FRAMES)]
    assert takes.decoded == Counter(range(FRAMES))
    going.end()


def test_what_is_there_is_not_decoded_again_unless_it_is_waited_for(kept: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = Takes(kept, monkeypatch, until=1000)
    takes.had = {*range(5), 20, *range(30, FRAMES)}
    going = FramePass[str](kept, takes.video, takes.take, is_there=takes.is_there)
    wish = going.wish([31], "in another form")
    while going.step():
        pass
    assert wish
    assert wish.done()
    assert sorted(takes.order) == sorted({*range(FRAMES)} - takes.had | {31})
    assert going.wish(range(FRAMES), "x") is None
    assert takes.decoded[45] == 0
    going.end()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wishes=st.lists(st.tuples(st.integers(0, FRAMES - 1), st.integers(1, 15), st.integers(0, FRAMES)), max_size=12),
)
def test_each_frame_is_decoded_once_whatever_is_wished_when(in_four_runs: Avatar, wishes: list[tuple[int, int, int]]) -> None:
    kept = in_four_runs
    with pytest.MonkeyPatch.context() as monkeypatch:
        takes = Takes(kept, monkeypatch, until=1000)
        going = FramePass[str](kept, takes.video, takes.take, is_there=takes.is_there)
        made = []
        for step in range(FRAMES + 1):
            for first, count, when in wishes:
                if when == step:
                    wanted = [index % FRAMES for index in range(first, first + count)]
                    made.append((wanted, going.wish(wanted, "x")))
            goes_on = going.step()
            for wanted, wish in made:
                assert (wish is None or wish.done()) == all(index in takes.frames for index in wanted)
        assert not goes_on
        assert takes.decoded == Counter(range(FRAMES))
        assert sorted(takes.order) == list(range(FRAMES))
        going.end()


def test_eight_callers_at_different_places_while_four_threads_go_through(
    in_four_runs: Avatar, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = in_four_runs
    takes = Takes(kept, monkeypatch, until=1000)
    going = FramePass[str](kept, takes.video, takes.take, is_there=takes.is_there)

    def go() -> None:
        while going.step():
            pass

    def call(first: int) -> None:
        for start in range(first, first + 24, 4):
            wanted = [index % FRAMES for index in range(start, start + 4)]
            wish = going.wish(wanted, "call")
            if wish:
                wish.result(PATIENCE_S)
            assert all(index in takes.frames for index in wanted)

    with ThreadPoolExecutor(12) as pool:
        jobs = [pool.submit(call, first) for first in random.Random(2).sample(range(FRAMES), 8)]
        jobs += [pool.submit(go) for _ in range(4)]
        for job in jobs:
            job.result(PATIENCE_S)
    going.end()
    assert takes.decoded == Counter(range(FRAMES))


def test_no_more_is_wanted_and_everybody_is_let_go(kept: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = Takes(kept, monkeypatch, until=5)
    going = FramePass[str](kept, takes.video, takes.take, is_there=takes.is_there)
    wish = going.wish([50], "never")
    assert wish
    while going.step():
        pass
    assert wish.done()
    assert going.wish([51], "never") is None
    assert not going.step()
    assert len(takes.order) == 5


def test_a_waiter_who_gives_up_spoils_nothing(kept: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = Takes(kept, monkeypatch, until=1000)
    going = FramePass[str](kept, takes.video, takes.take, is_there=takes.is_there)
    leaving, staying = going.wish([2, 3], "a"), going.wish([2, 3], "b")
    assert leaving
    assert staying
    leaving.cancel()
    for _ in range(4):
        going.step()
    assert staying.done()
    going.end()


def test_frames_that_can_not_be_read_hold_nobody_up(avatar: Avatar, models_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = both_forms(avatar, models_root, rounds=10)[0]
    assert kept.video
    damage(kept)
    loose = VideoFrames(Held(kept.video.place), count=FRAMES, width=160, height=96)
    whole = Takes(kept, monkeypatch, until=1000)
    object.__setattr__(kept, "frames", loose)
    going = FramePass[str](kept, loose, whole.take, is_there=whole.is_there)
    wish = going.wish(range(FRAMES), "all")
    said = []
    for _ in range(FRAMES):
        try:
            going.step()
        except BrokenAvatar as error:
            said.append(str(error))
    assert wish
    assert wish.done()
    assert said
    assert len(said) + len(whole.order) == FRAMES
    assert not going.step()


def test_a_video_that_can_not_be_looked_through_ends_it(kept: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = Takes(kept, monkeypatch)
    damage(kept)
    going = FramePass[str](kept, takes.video, takes.take, is_there=takes.is_there)
    wish = going.wish([5], "x")
    with pytest.raises(BrokenAvatar, match=r"background\.mp4 has changed"):
        going.step()
    assert wish
    assert wish.done()
    assert not going.step()


def test_a_clip_of_one_frame_is_decoded_once_though_four_threads_go_through_it(
    avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = both_forms(dataclasses.replace(avatar, frame_count=1, rects=avatar.rects[:1]), tmp_path / "one")[0]
    takes = Takes(one, monkeypatch, until=1000)
    begun, go_on = threading.Event(), threading.Event()

    def take(frame: int, picture: NDArray[np.uint8], wished: frozenset[str]) -> bool:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return takes.take(frame, picture, wished)

    going = FramePass[str](one, takes.video, take, is_there=takes.is_there)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(going.step)
        assert begun.wait(PATIENCE_S)
        assert not going.step()
        go_on.set()
        assert first.result(PATIENCE_S)
    going.end()
    assert takes.decoded == Counter([0])
