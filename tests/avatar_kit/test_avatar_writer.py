from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

import avatar_kit.writer
from avatar_kit.avatar import Avatar, Rect, load_avatar
from avatar_kit.errors import AvatarExists, BrokenAvatar, InvalidAvatarId
from avatar_kit.writer import AvatarWriter

RECT = Rect(50, 30, 110, 90)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nobody_sees_half_an_avatar(models_root: Path, jpeg_of: Callable[[int], bytes]) -> None:
    with AvatarWriter(models_root, "ada", width=160, height=96) as writer:
        writer.add_frame(jpeg_of(0), RECT)
        writer.set_network(b"network")
        assert all(path.name.startswith(".ada.") and path.name.endswith(".partial") for path in models_root.iterdir())
        writer.finish()
    assert [path.name for path in models_root.iterdir()] == ["ada"]


def test_failure_leaves_nothing(models_root: Path, jpeg_of: Callable[[int], bytes]) -> None:
    def write_until_the_lights_go_out() -> None:
        with AvatarWriter(models_root, "ada", width=160, height=96) as writer:
            writer.add_frame(jpeg_of(0), RECT)
            raise RuntimeError("lights out")

    with pytest.raises(RuntimeError, match="lights out"):
        write_until_the_lights_go_out()
    assert list(models_root.iterdir()) == []


def test_the_models_root_is_made(tmp_path: Path, jpeg_of: Callable[[int], bytes]) -> None:
    with AvatarWriter(tmp_path / "new" / "models", "ada", width=160, height=96) as writer:
        writer.add_frame(jpeg_of(0), RECT)
        writer.set_network(b"network")
        assert writer.finish().root == tmp_path / "new" / "models" / "ada"


def test_a_taken_id_is_an_error_that_says_so(avatar: Avatar, write_avatar: Callable[..., Avatar]) -> None:
    before = everything(avatar.root)
    with pytest.raises(AvatarExists, match="'ada' exists"):
        write_avatar()
    assert everything(avatar.root) == before


def test_an_id_taken_meanwhile_is_not_overwritten(models_root: Path, jpeg_of: Callable[[int], bytes], tmp_path: Path) -> None:
    with AvatarWriter(models_root, "ada", width=160, height=96) as writer:
        writer.add_frame(jpeg_of(0), RECT)
        writer.set_network(b"network")
        (models_root / "ada").mkdir()
        (models_root / "ada" / "somebody's").write_text("work")
        with pytest.raises(AvatarExists):
            writer.finish()
    assert (models_root / "ada" / "somebody's").read_text() == "work"
    assert [path.name for path in models_root.iterdir()] == ["ada"]


def test_replacing_swaps_the_whole_folder(avatar: Avatar, models_root: Path, jpeg_of: Callable[[int], bytes]) -> None:
    with AvatarWriter(models_root, "ada", width=160, height=96, replace=True) as writer:
        writer.add_frame(jpeg_of(7), RECT)
        writer.set_network(b"another")
        assert load_avatar(avatar.root).frame_count == 6, "the old one is served until the new one is there"
        writer.finish()
    assert load_avatar(avatar.root).frame_count == 1
    assert not (avatar.root / "audio_encoder.onnx").exists()
    assert [path.name for path in models_root.iterdir()] == ["ada"]


def test_a_failed_swap_brings_the_old_one_back(
    avatar: Avatar, models_root: Path, jpeg_of: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(avatar.root)
    rename = Path.rename

    def refuse_the_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise PermissionError(13, "not today")
        return rename(self, target)

    with AvatarWriter(models_root, "ada", width=160, height=96, replace=True) as writer:
        writer.add_frame(jpeg_of(7), RECT)
        writer.set_network(b"another")
        monkeypatch.setattr(Path, "rename", refuse_the_new)
        monkeypatch.setattr(avatar_kit.writer, "exchange", lambda *_: False)
        with pytest.raises(PermissionError):
            writer.finish()
    assert everything(avatar.root) == before
    assert [path.name for path in models_root.iterdir()] == ["ada"]


def test_png_frames_keep_their_kind(models_root: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    with AvatarWriter(models_root, "ada", width=160, height=96) as writer:
        writer.add_frame(cv2.imencode(".png", picture)[1].tobytes(), RECT)
        writer.set_network(b"network")
        avatar = writer.finish()
    assert avatar.frame_paths[0].name == "frame_000000.png"
    assert np.array_equal(avatar.read_frame(0), picture)


@pytest.mark.parametrize(
    ("picture", "rect", "says"),
    [
        (b"", RECT, "frame 0 is empty"),
        (b"GIF89a", RECT, "frame 0 is not a JPEG or PNG"),
        (cv2.imencode(".jpg", np.zeros((96, 161, 3), np.uint8))[1].tobytes(), RECT, "is 161x96, the avatar is 160x96"),
        (cv2.imencode(".jpg", np.zeros((96, 160, 3), np.uint8))[1].tobytes()[:-2], RECT, "truncated"),
        (cv2.imencode(".jpg", np.zeros((96, 160, 3), np.uint8))[1].tobytes(), Rect(0, 0, 161, 9), "not inside"),
    ],
)
def test_a_frame_that_could_not_be_served_is_refused(models_root: Path, picture: bytes, rect: Rect, says: str) -> None:
    with AvatarWriter(models_root, "ada", width=160, height=96) as writer, pytest.raises(BrokenAvatar, match=says):
        writer.add_frame(picture, rect)


def test_all_that_is_missing_is_named(models_root: Path) -> None:
    with AvatarWriter(models_root, "ada", width=160, height=96) as writer, pytest.raises(BrokenAvatar) as caught:
        writer.finish()
    assert caught.value.problems == ("the avatar has no frames", "the avatar has no network")


def test_networks_come_as_bytes_or_files(
    models_root: Path, tmp_path: Path, jpeg_of: Callable[[int], bytes], network: Callable[..., onnx.ModelProto]
) -> None:
    onnx.save(network(), tmp_path / "trained.onnx")
    with AvatarWriter(models_root, "ada", width=160, height=96) as writer:
        writer.add_frame(jpeg_of(0), RECT)
        writer.set_network(tmp_path / "trained.onnx")
        writer.set_features(np.zeros((1, 512), np.float32))
        avatar = writer.finish()
    assert avatar.network_path.read_bytes() == (tmp_path / "trained.onnx").read_bytes()
    assert avatar.features_path is not None
    assert np.load(avatar.features_path).shape == (1, 512)


def test_features_of_other_shapes_are_refused(models_root: Path) -> None:
    with AvatarWriter(models_root, "ada", width=160, height=96) as writer:
        for features in (np.zeros((3, 511), np.float32), np.zeros(512, np.float32), np.full((1, 512), np.nan, np.float32)):
            with pytest.raises(BrokenAvatar, match="features"):
                writer.set_features(features)


@pytest.mark.parametrize("options", [{"width": 8}, {"height": 100_000}], ids=str)
def test_what_no_avatar_may_be_is_refused(models_root: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"less|more"):
        AvatarWriter(models_root, "ada", **{"width": 160, "height": 96, **options})  # type: ignore[arg-type]


def test_a_path_is_no_id(models_root: Path) -> None:
    with pytest.raises(InvalidAvatarId):
        AvatarWriter(models_root, "../ada", width=160, height=96)
