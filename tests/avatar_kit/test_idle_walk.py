"""The frames of an avatar while nobody speaks: one by one, into its idle range, and never out of it again."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_kit.timeline import FrameRange, Loop, frame_at, idle_positions, period


@st.composite
def clips(draw: st.DrawFn, loops: tuple[Loop, ...] = tuple(Loop)) -> tuple[int, Loop, FrameRange]:
    count = draw(st.integers(1, 30))
    first = draw(st.integers(0, count - 1))
    return count, draw(st.sampled_from(loops)), FrameRange(first, draw(st.integers(first, count - 1)))


def walk(start: int, count: int, clip: tuple[int, Loop, FrameRange | None]) -> tuple[list[int], list[int], int]:
    """Positions, frames, and the position that follows."""
    frame_count, loop, idle = clip
    positions, following = idle_positions(start, count, frame_count=frame_count, loop=loop, idle=idle)
    return positions, [frame_at(position, frame_count, loop) for position in positions], following


@pytest.mark.parametrize(
    ("start", "clip", "frames", "following"),
    [
        pytest.param(3, (9, Loop.BOUNCE, FrameRange(2, 5)), [3, 4, 5, 4, 3, 2, 3, 4], 5, id="turning at both ends"),
        pytest.param(0, (9, Loop.BOUNCE, FrameRange(2, 3)), [0, 1, 2, 3, 2, 3, 2, 3], 14, id="two frames, from before them"),
        pytest.param(7, (9, Loop.BOUNCE, FrameRange(2, 4)), [7, 8, 7, 6, 5, 4, 3, 2], 3, id="from behind them, by the way back"),
        pytest.param(14, (9, Loop.BOUNCE, FrameRange(1, 3)), [2, 1, 2, 3, 2, 1, 2, 3], 14, id="on the way back already"),
        pytest.param(1, (4, Loop.BOUNCE, FrameRange(0, 3)), [1, 2, 3, 2, 1, 0, 1, 2], 9, id="the whole clip as a range"),
        pytest.param(1, (4, Loop.BOUNCE, None), [1, 2, 3, 2, 1, 0, 1, 2], 9, id="the whole clip"),
        pytest.param(6, (9, Loop.BOUNCE, FrameRange(8, 8)), [6, 7, 8, 8, 8, 8, 8, 8], 8, id="one frame, the last"),
        pytest.param(0, (9, Loop.BOUNCE, FrameRange(0, 0)), [0] * 8, 0, id="one frame, the first"),
        pytest.param(3, (9, Loop.FORWARD, FrameRange(2, 5)), [3, 4, 5, 2, 3, 4, 5, 2], 3, id="forward, from last to first"),
        pytest.param(7, (9, Loop.FORWARD, FrameRange(1, 2)), [7, 8, 0, 1, 2, 1, 2, 1], 11, id="forward, round the end"),
        pytest.param(7, (9, Loop.FORWARD, None), [7, 8, 0, 1, 2, 3, 4, 5], 15, id="forward, the whole clip"),
        pytest.param(5, (1, Loop.BOUNCE, FrameRange(0, 0)), [0] * 8, 5, id="a clip of one frame"),
        pytest.param(5, (1, Loop.BOUNCE, None), [0] * 8, 13, id="a clip of one frame, all of it"),
    ],
)
def test_walks_written_out(start: int, clip: tuple[int, Loop, FrameRange | None], frames: list[int], following: int) -> None:
    assert walk(start, 8, clip)[1:] == (frames, following)


@given(clips((Loop.BOUNCE,)), st.integers(0, 2**33), st.integers(0, 90))
def test_a_bouncing_clip_never_jumps_nor_stops(clip: tuple[int, Loop, FrameRange], start: int, count: int) -> None:
    frame_count, loop, idle = clip
    _, frames, following = walk(start, count, clip)
    shown = [*frames, frame_at(following, frame_count, loop)]
    for frame, then in itertools.pairwise(shown):
        stays = idle.first == idle.last == frame or frame_count == 1
        assert abs(then - frame) == (0 if stays else 1)


@given(clips((Loop.FORWARD,)), st.integers(0, 2**33), st.integers(0, 90))
def test_a_forward_clip_goes_on_or_begins_again(clip: tuple[int, Loop, FrameRange], start: int, count: int) -> None:
    frame_count, _, idle = clip
    for frame, then in itertools.pairwise(walk(start, count, clip)[1]):
        assert then in {(frame + 1) % frame_count, idle.first if frame == idle.last else -1}


@given(clips(), st.integers(0, 2**33))
def test_the_range_is_reached_and_not_left_again(clip: tuple[int, Loop, FrameRange], start: int) -> None:
    frame_count, loop, idle = clip
    frames = walk(start, 3 * period(frame_count, loop) + 2, clip)[1]
    inside = [frame in idle for frame in frames]
    reached = inside.index(True)
    assert reached < period(frame_count, loop)
    assert all(inside[reached:])
    if loop is Loop.BOUNCE:
        assert set(frames[reached:]) == set(range(idle.first, idle.last + 1))


@given(clips(), st.booleans(), st.integers(0, 2**33), st.integers(0, 40), st.integers(0, 40))
def test_walks_join(clip: tuple[int, Loop, FrameRange], whole: bool, start: int, one: int, other: int) -> None:
    frame_count, loop, idle = clip
    drawn = (frame_count, loop, None if whole else idle)
    positions, frames, following = walk(start, one + other, drawn)
    first = walk(start, one, drawn)
    second = walk(first[2], other, drawn)
    assert (first[0] + second[0], first[1] + second[1], second[2]) == (positions, frames, following)


@given(clips(), st.integers(0, 2**33), st.integers(0, 60), st.integers(0, 1000))
def test_a_position_a_whole_period_away_is_the_same_place(
    clip: tuple[int, Loop, FrameRange], start: int, count: int, turns: int
) -> None:
    frame_count, loop, _ = clip
    assert walk(start + turns * period(frame_count, loop), count, clip)[1] == walk(start, count, clip)[1]


@given(clips((Loop.BOUNCE,)), st.integers(0, 2**33), st.integers(0, 60))
def test_speech_goes_on_without_a_jump(clip: tuple[int, Loop, FrameRange], start: int, count: int) -> None:
    frame_count, loop, _ = clip
    _, _, following = walk(start, count, clip)
    spoken = [frame_at(following + k, frame_count, loop) for k in range(5)]
    assert all(abs(then - frame) <= 1 for frame, then in itertools.pairwise(spoken))


@pytest.mark.parametrize("given_as", [[10, 80], "10,80", " [10, 80] ", "[10,80]", FrameRange(10, 80)])
def test_a_range_as_files_and_command_lines_write_it(given_as: object) -> None:
    assert FrameRange.parse(given_as) == FrameRange(10, 80)


@pytest.mark.parametrize(
    "given_as",
    [[10], [10, 80, 90], [1.0, 2], [True, 2], ["1", "2"], {"first": 1}, None, 7, "", "10", "10,", "a,b", "10-80", f"{10**99},1"],
    ids=str,
)
def test_what_is_no_range(given_as: object) -> None:
    with pytest.raises(ValueError, match="expected two whole numbers"):
        FrameRange.parse(given_as)


@pytest.mark.parametrize("given_as", [[-1, 5], [6, 5], "6,5"])
def test_a_range_that_holds_nothing_is_refused_with_its_numbers(given_as: object) -> None:
    with pytest.raises(ValueError, match="to 5: the first must be 0 or more, and the last not before it"):
        FrameRange.parse(given_as)
