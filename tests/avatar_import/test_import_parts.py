"""`--frames A:B`: a part of a clip with its rectangles and features, also where the rest of the clip has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from avatar_kit.avatar import Avatar, Rect, load_avatar
from avatar_tools.verify import verify_avatar

from .conftest import FRAMES, jpeg, network, number_of, points, rows, square, write_video


def imported(run, source: Path, *options: object) -> tuple[Avatar, str]:
    result = run(source, *options)
    assert result.exit_code == 0, result.output
    place = next(line for line in result.stdout.splitlines() if line.endswith("frames of 160x96"))
    avatar = load_avatar(Path(place.rpartition(":")[0]))
    assert verify_avatar(avatar.root).problems == ()
    return avatar, result.stdout


def check(avatar: Avatar, part: range) -> None:
    """Pictures, rectangles and features are those of these frames."""
    assert [path.read_bytes() for path in avatar.frame_paths] == [jpeg(index) for index in part]
    assert avatar.rects == tuple(Rect(*square(index)) for index in part)
    if avatar.features_path:
        assert np.array_equal(np.load(avatar.features_path), rows()[part.start : part.stop])


@pytest.mark.parametrize(
    ("text", "part"),
    [("3:9", range(3, 9)), (":5", range(5)), ("7:", range(7, FRAMES)), ("0:12", range(12)), ("11:12", range(11, 12))],
)
def test_pictures_rectangles_and_features(run, layouts, text: str, part: range) -> None:
    avatar, said = imported(run, layouts.research(first=1), "--frames", text)
    check(avatar, part)
    assert bool(avatar.features_path) == (part.start < len(rows())), "the last frame has no row of its own"
    assert f"frames {part.start} to {part.stop - 1} of 12, which are counted from 0 in the avatar" in said


def test_landmarks_for_half_of_a_clip(run, refused, layouts) -> None:
    folder = layouts.research()
    for index in range(6, FRAMES):
        (folder / "landmarks" / f"{index}.lms").unlink()
    assert "no landmarks for frames 6 to 11, at the end of the clip" in refused(folder)
    assert "no landmarks for frames 6 to 11, at the end of the clip" in refused(folder, "--frames", "2:7")
    check(imported(run, folder, "--frames", ":6")[0], range(6))
    check(imported(run, folder, "--frames", "2:6", "--replace")[0], range(2, 6))


def test_gaps_outside_the_part_do_not_matter_and_neighbours_there_help(run, layouts) -> None:
    folder = layouts.research(count=20)
    for index in (0, *range(8, 16)):
        (folder / "landmarks" / f"{index}.lms").unlink()
    (folder / "aud_ave.npy").unlink()
    (folder / "landmarks" / "4.lms").unlink()
    avatar, said = imported(run, folder, "--frames", "4:8")
    check(avatar, range(4, 8))
    assert "frame 4: no landmarks, interpolated" in said


def test_an_array_of_landmarks_for_half(run, layouts) -> None:
    folder = layouts.plain(rects=False)
    np.save(folder / "landmarks_2d.npy", np.array([points(index, 68) for index in range(6)]))
    avatar, said = imported(run, folder, "--frames", "1:6")
    check(avatar, range(1, 6))
    assert "6 frames with landmarks for 12 frames: paired by rank, the first with the first" in said


@pytest.mark.parametrize("given", [range(2, 7), range(7), range(12)], ids=["for the part", "for the first", "for all"])
def test_rectangles(run, layouts, given: range) -> None:
    folder = layouts.go()
    (folder / "crop_rects.json").write_text(json.dumps([square(index) for index in given]))
    check(imported(run, folder, "--frames", "2:7")[0], range(2, 7))


def test_features_of_the_part_alone(run, layouts) -> None:
    folder = layouts.go()
    np.save(folder / "aud_ave.npy", rows(4))
    avatar, _ = imported(run, folder, "--frames", "2:7")
    assert avatar.features_path
    assert np.array_equal(np.load(avatar.features_path), rows(4))


@pytest.mark.parametrize("rate", [25, 50])
def test_a_part_of_a_video(run, layouts, tmp_path: Path, rate: int) -> None:
    """Its frames are those at 25 a second, whatever the rectangles count."""
    own = FRAMES * rate // 25
    film = write_video(tmp_path / "take.mp4", own, rate=rate)
    (tmp_path / "rects.json").write_text(json.dumps([square(index) for index in range(own)]))
    net = layouts.onnx(tmp_path / "nets" / "net.onnx", network())
    avatar, _ = imported(run, film, "--rectangles", tmp_path / "rects.json", "--checkpoint", net, "--frames", "2:6")
    shown = [index * rate // 25 for index in range(2, 6)]
    assert [number_of(avatar.read_frame(index)) for index in range(4)] == shown
    assert avatar.rects == tuple(Rect(*square(index)) for index in shown)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0:13", "full_body_img has frames 0 to 11: there are no frames 0:13 in it"),
        ("12:", "full_body_img has frames 0 to 11: there are no frames 12:12 in it"),
        ("5:5", "there are no frames 5:5 in it"),
        ("9:3", "there are no frames 9:3 in it"),
        (":", "--frames ':': expected A:B"),
        ("5", "--frames '5': expected A:B"),
        ("-1:3", "--frames '-1:3': expected A:B"),
        ("1:2:3", "--frames '1:2:3': expected A:B"),
        ("ä:3", "--frames 'ä:3': expected A:B"),
    ],
)
def test_parts_that_there_are_not(refused, layouts, text: str, says: str) -> None:
    assert says in refused(layouts.research(), f"--frames={text}")


def test_a_video_is_kept_whole(refused, layouts) -> None:
    folder = layouts.package()
    assert "--frames: full_body_video.mp4 can only be kept whole" in refused(folder, "--keep-video", "--frames", "1:5")


def test_properties_count_in_the_part(run, refused, layouts) -> None:
    folder = layouts.research()
    assert "reference is fixed:5, but the avatar has frames 0 to 3" in refused(
        folder, "--frames", "4:8", "--reference", "fixed:5"
    )
    avatar, _ = imported(run, folder, "--frames", "4:8", "--reference", "fixed:3", "--idle", "1,2")
    assert avatar.reference_frame == 3
