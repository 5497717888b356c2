"""`--reference`, `--idle` and `--idle-mouth`: into the avatar, into the plan, and against the clip before anything is written."""

from __future__ import annotations

import pytest

from avatar_kit.avatar import load_avatar
from avatar_kit.timeline import FrameRange, IdleMouth

from .conftest import FRAMES


def test_they_reach_the_avatar_and_are_said_before(run, layouts, models_root) -> None:
    result = run(layouts.go(), "--reference", f"fixed:{FRAMES - 1}", "--idle", "2,5", "--idle-mouth", "stored")
    assert result.exit_code == 0, result.output
    avatar = load_avatar(models_root / "ada")
    assert (avatar.reference_frame, avatar.idle, avatar.idle_mouth) == (FRAMES - 1, FrameRange(2, 5), IdleMouth.STORED)
    assert f"show the network the crop of frame {FRAMES - 1} as reference for every frame" in result.stdout
    assert "keep to frames 2 to 5 while nobody speaks" in result.stdout
    assert "show the pictures as they are while nobody speaks" in result.stdout


def test_without_them_nothing_is_said(run, layouts, models_root) -> None:
    result = run(layouts.go(), "--reference", "current")
    avatar = load_avatar(models_root / "ada")
    assert (avatar.reference_frame, avatar.idle, avatar.idle_mouth) == (None, None, IdleMouth.REST)
    assert "reference" not in result.stdout
    assert "nobody speaks" not in result.stdout


def test_frames_that_the_clip_does_not_have_are_all_named(refused, layouts) -> None:
    said = refused(layouts.go(), "--reference", f"fixed:{FRAMES}", "--idle", f"0,{FRAMES}")
    assert f"reference is fixed:{FRAMES}, but the avatar has frames 0 to {FRAMES - 1}" in said
    assert f"idle is [0, {FRAMES}], but the avatar has frames 0 to {FRAMES - 1}" in said


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("--reference", "fixed", "--reference 'fixed': expected current, or fixed: and the number of a frame"),
        ("--reference", "fixed: 3", "without a space"),
        ("--reference", "", "--reference '': expected current"),
        ("--idle", "5", "--idle '5': expected two whole numbers: first, last"),
        ("--idle", "5,2", "frames 5 to 2: the first must be 0 or more, and the last not before it"),
        ("--idle", "-2,2", "frames -2 to 2"),
    ],
)
def test_what_is_neither_is_refused(refused, layouts, option: str, text: str, says: str) -> None:
    assert says in refused(layouts.go(), f"{option}={text}")
