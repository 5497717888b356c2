from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_kit.timeline import Loop, frame_at


def walked(steps: int, frame_count: int) -> list[int]:
    """The research script's walk: it steps before it uses, and turns at both ends."""
    index, direction, seen = 0, 1, []
    for _ in range(steps):
        if index == frame_count - 1:
            direction = -1
        if index == 0:
            direction = 1
        index += direction
        seen.append(index)
    return seen


def test_five_frames_bounce_as_the_research_script_does_from_position_one() -> None:
    assert [frame_at(position, 5, Loop.BOUNCE) for position in range(1, 11)] == [1, 2, 3, 4, 3, 2, 1, 0, 1, 2]


@given(st.integers(2, 40))
def test_a_bounce_is_the_walk_to_and_fro(frame_count: int) -> None:
    assert [frame_at(position, frame_count, Loop.BOUNCE) for position in range(1, 200)] == walked(199, frame_count)


@given(st.integers(0, 10**12), st.integers(1, 10**6))
def test_forward_starts_again_at_the_first_frame(position: int, frame_count: int) -> None:
    assert frame_at(position, frame_count, Loop.FORWARD) == position - frame_count * (position // frame_count)


@given(st.integers(1, 1000), st.data(), st.sampled_from(Loop))
def test_within_the_clip_position_is_frame(frame_count: int, data: st.DataObject, loop: Loop) -> None:
    position = data.draw(st.integers(0, frame_count - 1))
    assert frame_at(position, frame_count, loop) == position


@given(st.integers(0, 2**63), st.integers(1, 10**6), st.sampled_from(Loop))
def test_every_position_has_a_frame(position: int, frame_count: int, loop: Loop) -> None:
    assert 0 <= frame_at(position, frame_count, loop) < frame_count


@pytest.mark.parametrize(("position", "frame_count"), [(-1, 5), (0, 0), (0, -3)])
def test_what_no_timeline_has_is_an_error(position: int, frame_count: int) -> None:
    with pytest.raises(ValueError, match=r"negative|at least one"):
        frame_at(position, frame_count, Loop.BOUNCE)
