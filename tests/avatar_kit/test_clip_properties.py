"""`reference`, `idle`, `idle_mouth`: what may be written of them, where, and what becomes of frames that no clip has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from avatar_kit.avatar import Avatar, load_avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import Mask
from avatar_kit.model_entry import ModelEntry
from avatar_kit.reference_frame import Reference
from avatar_kit.timeline import FrameRange, IdleMouth
from avatar_tools.network_trial import try_network
from avatar_tools.verify import verify_avatar

Write = Callable[..., Avatar]


def change(avatar: Avatar, **keys: object) -> None:
    path = avatar.root / "avatar.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


def problems_of(avatar: Avatar) -> list[str]:
    with pytest.raises(BrokenAvatar) as caught:
        load_avatar(avatar.root)
    return list(caught.value.problems)


def test_what_the_writer_was_told_is_loaded(write_avatar: Write) -> None:
    avatar = write_avatar(reference_frame=5, idle=FrameRange(2, 4), idle_mouth=IdleMouth.STORED)
    manifest = yaml.safe_load((avatar.root / "avatar.yaml").read_text())
    assert (manifest["reference"], manifest["idle"], manifest["idle_mouth"]) == ("fixed:5", [2, 4], "stored")
    assert (avatar.reference_frame, avatar.idle, avatar.idle_mouth) == (5, FrameRange(2, 4), IdleMouth.STORED)
    assert verify_avatar(avatar).ok


def test_avatars_that_say_nothing_have_neither(avatar: Avatar) -> None:
    path = avatar.root / "avatar.yaml"
    path.write_text(path.read_text().replace("reference: current\n", "").replace("idle_mouth: rest\n", ""))
    assert "idle" not in path.read_text()
    loaded = load_avatar(avatar.root)
    assert (loaded.reference_frame, loaded.idle, loaded.idle_mouth) == (None, None, IdleMouth.REST)


def test_the_writer_refuses_frames_that_were_not_written(write_avatar: Write, models_root: Path) -> None:
    with pytest.raises(BrokenAvatar, match="fixed:6, but the avatar has frames 0 to 5"):
        write_avatar(reference_frame=6)
    assert not (models_root / "ada").exists()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"reference": "fixed:6"}, "avatar.yaml: reference is fixed:6, but the avatar has frames 0 to 5"),
        ({"idle": [2, 6]}, "avatar.yaml: idle is [2, 6], but the avatar has frames 0 to 5"),
        ({"reference": "fixed:-1"}, "avatar.yaml: reference: expected current, or fixed:"),
        ({"reference": "fixed:"}, "avatar.yaml: reference: expected current, or fixed:"),
        ({"reference": "fixed:1\n"}, "avatar.yaml: reference: expected current, or fixed:"),
        ({"reference": "fixed:٣"}, "avatar.yaml: reference: expected current, or fixed:"),
        ({"reference": {"fixed": 1}}, "avatar.yaml: reference: expected current, or fixed:"),
        ({"reference": 1}, "avatar.yaml: reference: expected current, or fixed:"),
        ({"reference": None}, "avatar.yaml: reference: expected current, or fixed:"),
        ({"idle": [4, 2]}, "avatar.yaml: idle: frames 4 to 2: the first must be 0 or more, and the last not before it"),
        ({"idle": [-1, 2]}, "avatar.yaml: idle: frames -1 to 2"),
        ({"idle": 3}, "avatar.yaml: idle: expected two whole numbers"),
        ({"idle": [1, 2.5]}, "avatar.yaml: idle: expected two whole numbers"),
        ({"idle_mouth": "open"}, "avatar.yaml: idle_mouth: Input should be 'rest' or 'stored'"),
        ({"idle": [True, 2]}, "avatar.yaml: idle: expected two whole numbers"),
    ],
    ids=str,
)
def test_what_no_clip_has_is_named(avatar: Avatar, keys: dict[str, object], says: str) -> None:
    change(avatar, **keys)
    assert [problem[: len(says)] for problem in problems_of(avatar)] == [says]
    assert any(problem.startswith(says) for problem in verify_avatar(avatar.root).problems)


def test_both_are_named_at_once(avatar: Avatar) -> None:
    change(avatar, reference="fixed:99", idle=[0, 99])
    assert len(problems_of(avatar)) == 2


def test_settings_come_before_the_manifest(write_avatar: Write, models_root: Path) -> None:
    write_avatar(reference_frame=5, idle=FrameRange(2, 4))

    def shown(**entry: object) -> tuple[int | None, FrameRange | None, IdleMouth]:
        avatar = AvatarCatalog(models_root, {"ada": ModelEntry.model_validate(entry)}).get("ada")
        return avatar.reference_frame, avatar.idle, avatar.idle_mouth

    assert shown() == (5, FrameRange(2, 4), IdleMouth.REST)
    assert shown(reference="current", idle=[0, 5]) == (None, FrameRange(0, 5), IdleMouth.REST)
    assert shown(reference="fixed:0", idle="3,3", idle_mouth="stored") == (0, FrameRange(3, 3), IdleMouth.STORED)
    with pytest.raises(BrokenAvatar) as caught:
        shown(reference="fixed:6", idle=[3, 6])
    assert caught.value.problems == (
        "reference is fixed:6, but the avatar has frames 0 to 5 (in the settings)",
        "idle is [3, 6], but the avatar has frames 0 to 5 (in the settings)",
    )


def test_an_avatar_of_the_old_layout_has_them_of_the_settings(old_avatar: Callable[..., Path], models_root: Path) -> None:
    old_avatar()

    def shown(**entry: object) -> Avatar:
        return AvatarCatalog(models_root, {"sanders": ModelEntry.model_validate(entry)}).get("sanders")

    avatar = shown(reference="fixed:3", idle=[1, 2], idle_mouth="stored")
    assert (avatar.reference_frame, avatar.idle, avatar.idle_mouth) == (3, FrameRange(1, 2), IdleMouth.STORED)
    assert (shown().reference_frame, shown().idle, shown().idle_mouth) == (None, None, IdleMouth.REST)
    with pytest.raises(BrokenAvatar, match="fixed:3, but the avatar has frames 0 to 2; idle is"):
        shown(reference="fixed:3", idle=[1, 3], num_frames=3)


@pytest.mark.parametrize(
    "entry", [{"reference": "fixed"}, {"reference": "last"}, {"idle": [3, 1]}, {"idle": "3"}, {"idle_mouth": "open"}], ids=str
)
def test_a_wrong_entry_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelEntry.model_validate(entry)


@pytest.mark.parametrize("mask", [[5, 5, 310, 315], "5,5,310,315", "[5, 5, 310, 315]"], ids=str)
def test_a_mask_may_be_given_as_text_too_as_on_a_command_line(mask: object) -> None:
    assert ModelEntry.model_validate({"mask": mask}).mask == Mask(5, 5, 310, 315)


@pytest.mark.parametrize("text", ["current", "fixed:0", "fixed:523"])
def test_a_reference_is_written_as_it_was_read(text: str) -> None:
    assert str(Reference.parse(text)) == text
    assert Reference.parse(Reference.parse(text)) == Reference.parse(text)


def test_verifying_shows_the_network_the_reference_that_it_will_be_served_with(write_avatar: Write) -> None:
    avatar = write_avatar(reference_frame=3)
    avatar.frame_paths[3].write_bytes(b"no picture")
    problems, _ = try_network(avatar, (0,))
    assert any("frame_000003.jpg" in problem for problem in problems)
    assert try_network(dataclasses.replace(avatar, reference_frame=None), (0,)) == ([], [])
