from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from avatar_kit.avatar import Avatar, Loop, Paste
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarNotFound, BrokenAvatar, InvalidAvatarId
from avatar_kit.model_entry import ModelEntry
from avatar_kit.writer import AvatarWriter


def test_every_avatar_is_found_named_or_not(avatar: Avatar, old_avatar: Callable[..., Path], models_root: Path) -> None:
    old_avatar("sanders")
    catalog = AvatarCatalog(models_root, {"elsewhere": ModelEntry()})
    assert catalog.ids() == ["ada", "elsewhere", "sanders"]
    assert catalog.get("ada").frame_count == 6
    assert catalog.get("sanders").frame_count == 6
    with pytest.raises(BrokenAvatar):
        catalog.get("elsewhere")


def test_avatars_come_and_go(write_avatar: Callable[..., Avatar], models_root: Path) -> None:
    catalog = AvatarCatalog(models_root)
    assert catalog.ids() == []
    written = write_avatar("late")
    assert catalog.ids() == ["late"]
    shutil.rmtree(written.root)
    assert catalog.ids() == []
    with pytest.raises(AvatarNotFound, match="'late'"):
        catalog.get("late")


def test_what_is_no_avatar_is_not_listed(models_root: Path, avatar: Avatar) -> None:
    (models_root / "audio_encoder.onnx").write_bytes(b"x")
    (models_root / "a file").write_bytes(b"x")
    (models_root / "file").write_bytes(b"x")
    (models_root / "empty").mkdir()
    (models_root / "research" / "checkpoint").mkdir(parents=True)
    for hidden in (".ada.abc.partial", ".ada.abc.old", "-x", "with space"):
        shutil.copytree(avatar.root, models_root / hidden)
    assert AvatarCatalog(models_root).ids() == ["ada"]
    for name in ("empty", "file", "research", "audio_encoder.onnx"):
        with pytest.raises(AvatarNotFound):
            AvatarCatalog(models_root).get(name)


def test_an_avatar_being_written_is_not_listed(models_root: Path) -> None:
    with AvatarWriter(models_root, "ada", width=160, height=96):
        assert AvatarCatalog(models_root).ids() == []


def test_a_missing_models_root_has_no_avatars(tmp_path: Path) -> None:
    catalog = AvatarCatalog(tmp_path / "nowhere")
    assert catalog.ids() == []
    with pytest.raises(AvatarNotFound):
        catalog.get("ada")


@pytest.mark.parametrize("avatar_id", ["", ".", "..", "../models/ada", "ada/", "ada/frames", "/", "a" * 10_000, "ada\0", ".ada"])
def test_a_path_is_no_id(avatar: Avatar, models_root: Path, avatar_id: str) -> None:
    with pytest.raises(InvalidAvatarId):
        AvatarCatalog(models_root).get(avatar_id)
    with pytest.raises(InvalidAvatarId):
        AvatarCatalog(models_root, {avatar_id: ModelEntry()})


def test_a_link_is_followed_wherever_it_leads(avatar: Avatar, models_root: Path, tmp_path: Path) -> None:
    shutil.move(avatar.root, tmp_path / "outside")
    (models_root / "ada").symlink_to(tmp_path / "outside")
    (models_root / "loop").symlink_to("loop")
    (models_root / "nowhere").symlink_to(tmp_path / "nothing")
    catalog = AvatarCatalog(models_root)
    assert catalog.ids() == ["ada"]
    linked = catalog.get("ada")
    assert (linked.id, linked.frame_count) == ("ada", 6)
    assert catalog.shown(linked.network_path) == "ada/network.onnx"
    assert linked.read_frame(5).shape == (96, 160, 3)
    for name in ("loop", "nowhere"):
        with pytest.raises(AvatarNotFound):
            catalog.get(name)


def test_a_link_to_another_avatar_is_one_more_avatar(avatar: Avatar, models_root: Path) -> None:
    (models_root / "alias").symlink_to("ada")
    catalog = AvatarCatalog(models_root)
    assert catalog.ids() == ["ada", "alias"]
    assert catalog.get("alias").id == "alias"


@pytest.mark.parametrize("name", ["checkpoint/model_best.onnx", "frames", "crop_rects.json", "frames/frame_000002.jpg"])
def test_a_found_avatar_of_the_old_layout_may_not_link_elsewhere(
    old_avatar: Callable[..., Path], models_root: Path, tmp_path: Path, name: str
) -> None:
    folder = old_avatar("sanders")
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(BrokenAvatar, match="leads out"):
        AvatarCatalog(models_root).get("sanders")
    assert AvatarCatalog(models_root, {"sanders": ModelEntry()}).get("sanders").frame_count == 6, "unless the operator names it"


def test_two_thousand_avatars_are_listed_without_opening_one(models_root: Path) -> None:
    for number in range(2_000):
        folder = models_root / f"a{number:05d}"
        folder.mkdir()
        (folder / "avatar.yaml").symlink_to("/nowhere")
    assert AvatarCatalog(models_root).ids() == [f"a{number:05d}" for number in range(2_000)]


def test_settings_change_how_an_avatar_is_shown(avatar: Avatar, models_root: Path) -> None:
    entry = ModelEntry.model_validate(
        {"loop": "forward", "paste": "feather", "preload": True, "num_frames": 6, "model_path": "ada/network.onnx"}
    )
    catalog = AvatarCatalog(models_root, {"ada": entry})
    shown = catalog.get("ada")
    assert (shown.loop, shown.paste, shown.mask) == (Loop.FORWARD, Paste.FEATHER, avatar.mask)
    assert shown.network_path == avatar.network_path
    assert catalog.entry("ada").preload
    assert not catalog.entry("other").preload


def test_settings_that_name_other_files_than_the_manifest_are_a_mistake(avatar: Avatar, models_root: Path) -> None:
    entry = ModelEntry.model_validate(
        {"model_path": "ada/checkpoint/model_best.onnx", "background_dir": "ada/frames", "num_frames": 5}
    )
    with pytest.raises(BrokenAvatar) as caught:
        AvatarCatalog(models_root, {"ada": entry}).get("ada")
    assert [problem.partition(" ")[0] for problem in caught.value.problems] == ["model_path", "num_frames"]


def test_an_avatars_own_audio_encoder_comes_first(
    avatar: Avatar, old_avatar: Callable[..., Path], models_root: Path, tmp_path: Path
) -> None:
    old_avatar("sanders")
    catalog = AvatarCatalog(models_root)
    assert catalog.audio_encoder_path(catalog.get("ada")) == avatar.root / "audio_encoder.onnx"
    with pytest.raises(BrokenAvatar, match=r"audio_encoder\.onnx is missing"):
        catalog.audio_encoder_path(catalog.get("sanders"))
    (models_root / "audio_encoder.onnx").write_bytes(b"x")
    assert catalog.audio_encoder_path(catalog.get("sanders")) == models_root / "audio_encoder.onnx"
    (tmp_path / "shared.onnx").write_bytes(b"x")
    configured = AvatarCatalog(models_root, audio_encoder=tmp_path / "shared.onnx")
    assert configured.audio_encoder_path(configured.get("sanders")) == tmp_path / "shared.onnx"
