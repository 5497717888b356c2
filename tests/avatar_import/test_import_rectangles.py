"""Rectangles are the reference's: xmin = P1.x, xmax = P31.x, ymin = P52.y, ymax = ymin + xmax - xmin, truncated towards zero."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_kit.avatar import load_avatar
from avatar_kit.geometry import Rect
from avatar_kit.safe_files import FileProblem
from avatar_tools.importing.landmarks import read_array, read_folder, read_points
from avatar_tools.importing.problems import ImportRefused, spans
from avatar_tools.importing.squares import check_placed, kept_inside, smoothed, without_gaps

from .conftest import FRAMES, lms_text, points, square


def formula(of: np.ndarray) -> Rect:
    """By the published formula, by other means than the code: truncation is math.trunc."""
    xmin, xmax, ymin = (math.trunc(value) for value in (of[1][0].item(), of[31][0].item(), of[52][1].item()))
    return Rect(xmin, ymin, xmax, ymin + (xmax - xmin))


@pytest.mark.parametrize("kind", [int, float])
@pytest.mark.parametrize("count", [53, 68, 110, 203])
def test_files_and_arrays_give_the_formula(tmp_path: Path, count: int, kind: type) -> None:
    clip = [points(index, count, kind=kind) for index in range(5)]
    for index, of in enumerate(clip):
        (tmp_path / f"{index}.lms").write_text(lms_text(of))
    np.save(tmp_path / "all.npy", np.stack(clip))
    wanted = [formula(of) for of in clip]
    assert read_folder(tmp_path, inside=tmp_path).squares == wanted
    assert read_array(tmp_path / "all.npy").squares == wanted


@given(left=st.floats(-50, 90), width=st.floats(2, 400), top=st.floats(-50, 90))
def test_any_coordinates_truncate_towards_zero(tmp_path_factory, left: float, width: float, top: float) -> None:
    folder = tmp_path_factory.mktemp("lms")
    of = np.zeros((110, 2))
    of[1, 0], of[31, 0], of[52, 1] = left, left + width, top
    (folder / "0.lms").write_text("".join(f"{x!r} {y!r}\n" for x, y in of.tolist()))
    assert read_folder(folder, inside=folder).squares == [formula(of)]


@pytest.mark.parametrize(
    "text", ["{x} {y}\n", "{x}\t{y}\r\n", "  {x}   {y} \n\n", "{x}.000000 {y}.5\n"], ids=["plain", "windows", "spaced", "decimal"]
)
def test_ways_to_write_the_same_points(tmp_path: Path, text: str) -> None:
    (tmp_path / "0.lms").write_bytes("".join(text.format(x=x, y=y) for x, y in points(0).tolist()).encode())
    assert np.array_equal(read_points(tmp_path / "0.lms").astype(int), points(0))


def test_files_are_ordered_by_number_and_others_ignored(tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"{index}.lms").write_text(lms_text(points(index)))
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "12.jpg").write_bytes(b"")
    assert read_folder(tmp_path, inside=tmp_path).squares == [Rect(*square(index)) for index in range(12)]


def test_short_gaps_are_interpolated_evenly() -> None:
    squares = [Rect(0, 10, 60, 70), None, None, None, Rect(8, 14, 76, 82)]
    filled, notes = without_gaps(squares)
    assert filled[1:4] == [Rect(2, 11, 64, 73), Rect(4, 12, 68, 76), Rect(6, 13, 72, 79)]
    assert notes == ["frames 1 to 3: no landmarks, interpolated from the frames around"]


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_what_is_there_is_never_changed_and_long_gaps_are_named(there: list[bool]) -> None:
    squares = [Rect(*square(index)) if is_there else None for index, is_there in enumerate(there)]
    text = "".join("x" if is_there else "." for is_there in there)
    fillable = text[0] == text[-1] == "x" and "......" not in text
    if not fillable:
        with pytest.raises(FileProblem, match="no landmarks for frame"):
            without_gaps(squares)
        return
    filled, _ = without_gaps(squares)
    assert filled == [Rect(*square(index)) for index in range(len(there))], "the squares move evenly, so does what fills them in"


def test_gaps_in_files_are_reported_and_long_ones_refused(run, refused, layouts, models_root: Path) -> None:
    folder = layouts.research(count=20)
    for number in (3, 4, 9):
        (folder / "landmarks" / f"{number}.lms").unlink()
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert "frames 3 to 4: no landmarks, interpolated" in result.stdout
    assert "frame 9: no landmarks, interpolated" in result.stdout
    assert load_avatar(models_root / "ada").rects == tuple(Rect(*square(index)) for index in range(20))
    for number in range(10, 15):
        (folder / "landmarks" / f"{number}.lms").unlink()
    said = refused(folder, "--replace")
    assert "no landmarks for frames 9 to 14: at most 5 frames in a row" in said


def test_frames_of_nan_in_an_array_are_a_gap(tmp_path: Path) -> None:
    clip = np.stack([points(index, 68, kind=float) for index in range(4)])
    clip[2] = np.nan
    np.save(tmp_path / "a.npy", clip)
    assert [square is None for square in read_array(tmp_path / "a.npy").squares] == [False, False, True, False]
    clip[1, 40, 0] = np.nan
    np.save(tmp_path / "a.npy", clip)
    with pytest.raises(FileProblem, match="not finite numbers in frame 1"):
        read_array(tmp_path / "a.npy")


def test_rectangles_over_the_edge_are_clamped_and_named(run, layouts, models_root: Path) -> None:
    folder = layouts.go()
    rects = [square(index) for index in range(FRAMES)]
    rects[4], rects[5], rects[9] = [-7, 20, 60, 87], [-3, 30, 60, 97], [100, 20, 170, 90]
    (folder / "crop_rects.json").write_text(json.dumps(rects))
    result = run(folder)
    assert "warning: frames 4 to 5, 9: the rectangle ran over the picture's edge and was cut there" in result.stdout
    kept = load_avatar(models_root / "ada").rects
    assert (kept[4], kept[5], kept[9]) == (Rect(0, 20, 60, 87), Rect(0, 30, 60, 96), Rect(100, 20, 160, 90))


@pytest.mark.parametrize(
    ("rect", "says"),
    [
        ([60, 20, 60, 20], "the rectangle is empty in frame 7, the first being [60, 20, 60, 20]"),
        ([90, 20, 40, -30], "the rectangle is empty in frame 7"),
        ([300, 20, 400, 120], "the rectangle is not in the 160x96 picture in frame 7"),
        ([0, 0, 10**400, 10**400], "the rectangle reaches further than any picture in frame 7"),
        ([-1.7e308, 0, 1.7e308, 50], "the rectangle reaches further than any picture in frame 7"),
        ([0, 0, 50, 100_001], "the rectangle reaches further than any picture in frame 7"),
    ],
)
def test_rectangles_that_can_not_be_served_are_named(refused, layouts, rect: list[int], says: str) -> None:
    folder = layouts.go()
    (folder / "crop_rects.json").write_text(
        json.dumps([*(square(index) for index in range(7)), rect, *map(square, range(8, 12))])
    )
    assert says in refused(folder)
    assert says in refused(folder, "--smooth", 3)


@pytest.mark.parametrize(("left", "right"), [("-1.7e308", "1.7e308"), ("40", "1e300"), ("-3e9", "100")])
@pytest.mark.parametrize("options", [(), ("--smooth", 3)], ids=["as they are", "smoothed"])
def test_landmarks_far_off_are_named(refused, layouts, left: str, right: str, options: tuple[object, ...]) -> None:
    folder = layouts.research()
    of = points(6).astype(object)
    of[1, 0], of[31, 0] = left, right
    (folder / "landmarks" / "6.lms").write_text(lms_text(of))
    (folder / "landmarks" / "7.lms").unlink()
    assert "the rectangle reaches further than any picture in frame 6" in refused(folder, *options)


@given(
    st.lists(
        st.tuples(st.integers(-20, 120), st.integers(-20, 90), st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=40
    ),
    st.sampled_from([0, 3, 9]),
)
def test_clamped_rectangles_lie_in_the_picture_or_are_refused(boxes: list[tuple[int, int, int, int]], smooth: int) -> None:
    rects = [Rect(x, y, x + width, y + height) for x, y, width, height in boxes]
    try:
        check_placed(rects, 160, 96)
    except FileProblem:
        assert any(rect.x2 <= 0 or rect.y2 <= 0 or rect.y1 >= 96 for rect in rects)
        return
    rects = smoothed(rects, smooth) if smooth else rects
    kept, warnings = kept_inside(rects, 160, 96)
    assert all(rect.problem(160, 96) is None for rect in kept)
    assert bool(warnings) == (kept != rects)


def test_smoothing_is_a_centred_mean_that_shortens_towards_the_ends() -> None:
    rects = [Rect(x, 0, x + 60, 60) for x in (0, 10, 2, 30, 4)]
    assert [rect.x1 for rect in smoothed(rects, 5)] == [0, 4, 9, 12, 4]


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(1, 200)), min_size=1, max_size=50),
    st.sampled_from([3, 5, 25]),
)
def test_smoothing_keeps_squares_square_and_rest_at_rest(boxes: list[tuple[int, int, int]], frames: int) -> None:
    rects = [Rect(x, y, x + side, y + side) for x, y, side in boxes]
    assert all(rect.width == rect.height for rect in smoothed(rects, frames))
    assert smoothed([rects[0]] * 9, frames) == [rects[0]] * 9
    moving = [Rect(3 * index, 7, 3 * index + 60, 67) for index in range(30)]
    assert smoothed(moving, frames) == moving, "a head that moves evenly is neither delayed nor slowed"


@pytest.mark.parametrize("frames", [-3, 0, 1, 2, 4])
def test_smoothing_over_a_number_that_has_no_middle_is_refused(refused, layouts, frames: int) -> None:
    assert "expected an odd number from 3" in refused(layouts.go(), f"--smooth={frames}")
    with pytest.raises(ImportRefused):
        smoothed([Rect(0, 0, 9, 9)], frames)


def test_smoothing_is_off_unless_asked_for(run, layouts, models_root: Path) -> None:
    folder = layouts.go()
    jumpy = [[40 + 4 * (index % 2), 20, 100 + 4 * (index % 2), 80] for index in range(FRAMES)]
    (folder / "crop_rects.json").write_text(json.dumps(jumpy))
    run(folder)
    assert [rect.x1 for rect in load_avatar(models_root / "ada").rects] == [40, 44] * 6
    result = run(folder, "--smooth", 5, "--replace")
    assert "rectangles averaged over 5 frames" in result.stdout
    assert all(41 <= rect.x1 <= 43 for rect in load_avatar(models_root / "ada").rects[1:-1])


def test_frames_in_words() -> None:
    assert spans([4]) == "frame 4"
    assert spans([9, 3, 4, 5]) == "frames 3 to 5, 9"
    assert spans(range(0, 100, 2)) == "frames 0, 2, 4, 6, 8, 10, 12, 14, 16, 18 and more, 50 in all"
