"""Places of an avatar's stored features in each layout, and the words of verifying about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog, settled
from avatar_kit.errors import BrokenAvatar
from avatar_kit.features import map_array, map_features
from avatar_kit.model_entry import ModelEntry
from avatar_kit.safe_files import FileProblem
from avatar_tools.verify import verify_avatar

ROWS = np.random.default_rng(4).uniform(0, 9, (5, 512)).astype(np.float32)


def catalog(root: Path, **entry: Any) -> AvatarCatalog:
    return AvatarCatalog(root, {"sanders": ModelEntry.model_validate(entry)})


def test_the_old_layout_has_them_in_its_folder(old_avatar: Callable[..., Path], models_root: Path) -> None:
    old_avatar()
    folder = models_root / "sanders"
    assert AvatarCatalog(models_root).get("sanders").features_path is None
    (folder / "aud_ave.bin").write_bytes(ROWS.tobytes())
    assert AvatarCatalog(models_root).get("sanders").features_path == folder / "aud_ave.bin"
    np.save(folder / "aud_ave.npy", ROWS)
    for found in (AvatarCatalog(models_root), catalog(models_root)):
        assert found.get("sanders").features_path == folder / "aud_ave.npy"


def test_the_settings_say_where_else(old_avatar: Callable[..., Path], models_root: Path, tmp_path: Path) -> None:
    old_avatar()
    (models_root / "sanders" / "aud_ave.bin").write_bytes(ROWS.tobytes())
    for named in ("shared/features.npy", tmp_path / "elsewhere.bin"):
        assert catalog(models_root, features_path=named).get("sanders").features_path == models_root / named


def test_without_settings_a_link_out_of_the_folder_is_passed_over(
    old_avatar: Callable[..., Path], models_root: Path, tmp_path: Path
) -> None:
    old_avatar()
    np.save(tmp_path / "secret.npy", ROWS)
    (models_root / "sanders" / "aud_ave.npy").symlink_to(tmp_path / "secret.npy")
    assert AvatarCatalog(models_root).get("sanders").features_path is None
    (models_root / "sanders" / "aud_ave.bin").write_bytes(ROWS.tobytes())
    assert AvatarCatalog(models_root).get("sanders").features_path == models_root / "sanders" / "aud_ave.bin"
    assert catalog(models_root).get("sanders").features_path == models_root / "sanders" / "aud_ave.npy"


def test_a_damaged_file_does_not_keep_the_old_layout_from_loading(old_avatar: Callable[..., Path], models_root: Path) -> None:
    old_avatar()
    path = models_root / "sanders" / "aud_ave.npy"
    path.write_bytes(b"no array")
    avatar = AvatarCatalog(models_root).get("sanders")
    assert avatar.features_path == path
    report = verify_avatar(avatar, run_networks=False)
    assert any("aud_ave.npy is not a NumPy array of numbers" in problem for problem in report.problems)


def test_settings_and_manifest_must_agree(avatar: Avatar) -> None:
    with pytest.raises(BrokenAvatar, match=r"features_path in the settings names another file than the avatar's avatar\.yaml"):
        settled(avatar, ModelEntry(features_path=Path("ada/aud_ave.npy")), avatar.root.parent)


def test_verifying_reads_every_value(old_avatar: Callable[..., Path], models_root: Path) -> None:
    old_avatar()
    holey = ROWS.copy()
    holey[4, 511] = np.inf
    np.save(models_root / "sanders" / "aud_ave.npy", holey)
    report = verify_avatar(AvatarCatalog(models_root).get("sanders"), run_networks=False)
    assert any("aud_ave.npy holds values that are not finite numbers" in problem for problem in report.problems)


@pytest.mark.parametrize("name", ["aud_ave.npy", "aud_ave.bin"])
def test_files_are_mapped_and_can_not_be_written_to(tmp_path: Path, name: str) -> None:
    if name.endswith("npy"):
        np.save(tmp_path / name, ROWS)
    else:
        (tmp_path / name).write_bytes(ROWS.tobytes())
    rows = map_features(tmp_path / name, frame_count=6)
    assert isinstance(rows, np.memmap)
    np.testing.assert_array_equal(rows, ROWS)
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 1


def test_more_rows_than_any_clip_has_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "aud_ave.bin"
    with path.open("wb") as file:
        file.truncate(2048 * 10_000_000)  # 20 GB of holes
    with pytest.raises(FileProblem, match="has 10000000 rows; 1 to 1000002 are allowed"):
        map_array(path)
