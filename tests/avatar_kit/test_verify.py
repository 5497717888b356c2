"""A check of an avatar: checksums, networks, features, and what is told of them."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import yaml

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_tools.verify import verify_avatar

from ..pickles import Trap

Make = Callable[..., onnx.ModelProto]


def reseal(folder: Path) -> None:
    """Writes the checksums anew, so that a change is judged by itself."""
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  frames/{p.name}\n" for p in sorted((folder / "frames").iterdir())]
    (folder / "frames.sha256").write_text("".join(sums))
    content = yaml.safe_load((folder / "avatar.yaml").read_text())
    for entry in content["files"].values():
        entry["sha256"] = hashlib.sha256((folder / entry["path"]).read_bytes()).hexdigest()
    (folder / "avatar.yaml").write_text(yaml.safe_dump(content))


def test_a_good_avatar_has_nothing_against_it(avatar: Avatar) -> None:
    told: list[tuple[str, int, int]] = []
    report = verify_avatar(avatar, progress=lambda *step: told.append(step))
    assert report.problems == ()
    assert report.warnings == ()
    assert report.ok
    assert told[-1] == ("frames", 6, 6)
    assert verify_avatar(avatar.root) == report


def test_a_good_avatar_of_the_old_layout_too(old_avatar: Callable[..., Path], models_root: Path, encoder: Make) -> None:
    folder = old_avatar()
    onnx.save(encoder(), models_root / "audio_encoder.onnx")
    assert verify_avatar(folder).problems == ()
    assert verify_avatar(AvatarCatalog(models_root).get("sanders")).warnings == ()


def test_one_byte_changed_anywhere_is_noticed(avatar: Avatar) -> None:
    for path in sorted(p for p in avatar.root.rglob("*") if p.is_file() and p.name != "avatar.yaml"):
        data = path.read_bytes()
        path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
        report = verify_avatar(avatar.root, run_networks=False)
        assert any(path.name in problem for problem in report.problems), path.name
        path.write_bytes(data)
    assert verify_avatar(avatar.root).ok


def test_all_problems_are_named_at_once(avatar: Avatar, encoder: Make) -> None:
    folder = avatar.root
    (folder / "frames" / "frame_000001.jpg").unlink()
    third = folder / "frames" / "frame_000003.jpg"
    third.write_bytes(third.read_bytes()[:900])
    cv2.imwrite(str(folder / "frames" / "frame_000004.jpg"), np.zeros((96, 100, 3), np.uint8))
    rects = json.loads((folder / "crop_rects.json").read_text())
    rects[5] = [0, 0, 1000, 9]
    (folder / "crop_rects.json").write_text(json.dumps(rects))
    onnx.save(encoder(), folder / "network.onnx")
    said = verify_avatar(folder).problems
    for expected in (
        "frame 1 is missing",
        "frames/frame_000003.jpg is truncated",
        "frames/frame_000004.jpg is 100x96",
        "frame 5: [0, 0, 1000, 9] is not inside",
        "network.onnx: its inputs",
    ):
        assert sum(expected in problem for problem in said) == 1, expected
    assert not any(str(folder) in problem for problem in said)


def test_a_frame_that_went_wrong_is_told_once(avatar: Avatar) -> None:
    path = avatar.frame_paths[2]
    path.write_bytes(path.read_bytes()[:900])
    assert [problem.split(" ")[0] for problem in verify_avatar(avatar.root).problems] == ["frames/frame_000002.jpg"]


def test_many_bad_frames_are_counted(models_root: Path, old_avatar: Callable[..., Path]) -> None:
    folder = old_avatar()
    for number in range(6, 60):
        (folder / "frames" / f"frame_{number:06d}.jpg").write_bytes(b"broken")
    (folder / "crop_rects.json").write_text(json.dumps([[1, 1, 50, 50]] * 60))
    said = verify_avatar(folder).problems
    assert len(said) == 11
    assert said[-1] == "and 44 more like these"


def nan_network(make: Make) -> onnx.ModelProto:
    return make(gain=float("nan"))


def bright_network(make: Make) -> onnx.ModelProto:
    """Gives 0..255 where 0..1 is expected."""
    made = make()
    made.graph.initializer[5].CopyFrom(onnx.numpy_helper.from_array(np.float32(255), "high"))
    made.graph.initializer[3].CopyFrom(onnx.numpy_helper.from_array(np.float32(-50), "gain"))
    return made


def unknown_operator(make: Make) -> onnx.ModelProto:
    made = make()
    made.graph.node[1].op_type = "ReadMind"
    return made


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(nan_network, "not finite"), (bright_network, "expected 0 to 1"), (unknown_operator, "ONNX Runtime cannot load it")],
)
def test_a_network_that_can_not_serve_is_found_by_running_it(
    avatar: Avatar, network: Make, spoil: Callable[[Make], onnx.ModelProto], says: str
) -> None:
    onnx.save(spoil(network), avatar.network_path)
    reseal(avatar.root)
    (problem,) = verify_avatar(avatar.root).problems
    assert says in problem
    assert str(avatar.root) not in problem
    assert verify_avatar(avatar.root, run_networks=False).ok


@pytest.mark.parametrize("batch", [1, 3])
def test_networks_with_a_fixed_batch_size_run_too(avatar: Avatar, network: Make, encoder: Make, batch: int) -> None:
    onnx.save(network(batch), avatar.network_path)
    onnx.save(encoder(batch), avatar.root / "audio_encoder.onnx")
    reseal(avatar.root)
    report = verify_avatar(avatar.root)
    assert (report.problems, report.warnings) == ((), ())
    assert f"batch size {batch} only" in report.facts["network"]


def test_a_mouth_that_does_not_move_is_a_warning(avatar: Avatar, network: Make) -> None:
    onnx.save(network(gain=0), avatar.network_path)
    reseal(avatar.root)
    report = verify_avatar(avatar.root)
    assert report.ok
    assert report.warnings == ("network.onnx: the mouth is the same whatever the sound",)


def test_a_missing_audio_encoder_is_a_warning_and_a_wrong_one_a_problem(
    old_avatar: Callable[..., Path], models_root: Path, network: Make
) -> None:
    folder = old_avatar()
    assert "audio encoder" in verify_avatar(folder).warnings[0]
    onnx.save(network(), models_root / "other.onnx")
    report = verify_avatar(folder, audio_encoder=models_root / "other.onnx")
    assert "other.onnx: its inputs" in report.problems[0]


def with_features(folder: Path, array: Any) -> None:
    np.save(folder / "aud_ave.npy", array, allow_pickle=True)
    content = yaml.safe_load((folder / "avatar.yaml").read_text())
    content["files"]["features"] = {"path": "aud_ave.npy", "sha256": "0" * 64}
    (folder / "avatar.yaml").write_text(yaml.safe_dump(content))
    reseal(folder)


@pytest.mark.parametrize(("rows", "warned"), [(6, False), (5, False), (4, False), (3, True), (9, True)])
def test_features_of_another_clip_are_a_warning(avatar: Avatar, rows: int, warned: bool) -> None:
    with_features(avatar.root, np.zeros((rows, 512), np.float32))
    report = verify_avatar(avatar.root)
    assert report.ok
    assert bool(report.warnings) == warned
    assert report.facts["audio features"] == f"aud_ave.npy, {rows} rows"


@pytest.mark.parametrize(
    "array",
    [np.zeros((6, 511), np.float32), np.zeros((6, 512)), np.zeros(512, np.float32), np.array([Trap()], object)],
    ids=range(4),
)
def test_features_of_another_kind_are_a_problem(avatar: Avatar, array: Any) -> None:
    with_features(avatar.root, array)
    assert "aud_ave.npy" in verify_avatar(avatar.root).problems[0]


@pytest.mark.parametrize(
    "content", [pickle.dumps(Trap()), b"", b"\x93NUMPY", b"PK\x03\x04", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70000]
)
def test_nothing_is_unpickled(avatar: Avatar, content: bytes) -> None:
    with_features(avatar.root, np.zeros((6, 512), np.float32))
    (avatar.root / "aud_ave.npy").write_bytes(content)
    assert "aud_ave.npy" in verify_avatar(avatar.root).problems[0]


def test_a_header_that_promises_too_much_is_not_believed(avatar: Avatar) -> None:
    with_features(avatar.root, np.zeros((6, 512), np.float32))
    path = avatar.root / "aud_ave.npy"
    path.write_bytes(path.read_bytes().replace(b"(6, 512), } ", b"(9999999999, 512), } ").replace(b"         \n", b"\n"))
    assert "aud_ave.npy" in verify_avatar(avatar.root).problems[0]


def test_another_id_inside_is_a_warning(avatar: Avatar) -> None:
    avatar.root.rename(avatar.root.with_name("bob"))
    report = verify_avatar(avatar.root.with_name("bob"))
    assert report.ok
    assert "'ada'" in report.warnings[0]
    assert "'bob'" in report.warnings[0]


def test_a_folder_that_is_no_avatar_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "ada" / "frames").mkdir(parents=True)
    report = verify_avatar(tmp_path / "ada")
    assert report.problems == ("ada is no avatar: it has neither avatar.yaml nor checkpoint/model_best.onnx",)


def test_what_its_pictures_take_to_serve_is_told(avatar: Avatar) -> None:
    report = verify_avatar(avatar)
    crops = 6 * 320 * 320 * 3
    assert report.memory_bytes["inference_crops"] == crops
    assert report.facts["memory to infer"].startswith(f"{crops / 1e6:.1f} MB of crops")
    avatar.network_path.write_bytes(b"broken")
    assert verify_avatar(avatar).facts["network"].endswith("unusable")
