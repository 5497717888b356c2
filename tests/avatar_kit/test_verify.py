from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar, Loop, Rect
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.model_entry import ModelEntry
from avatar_tools.rect_motion import motion_warnings
from avatar_tools.verify import verify_avatar

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


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


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


STEADY = [Rect(100 + step, 50, 200 + step, 150) for step in range(10)]


@pytest.mark.parametrize(
    ("rects", "loop", "says"),
    [
        (STEADY, Loop.BOUNCE, []),
        ([*STEADY[:5], Rect(300, 50, 400, 150), *STEADY[6:]], Loop.BOUNCE, ["frame 5", "frame 6"]),
        ([*STEADY[:9], Rect(108, 50, 228, 170)], Loop.BOUNCE, ["frame 9: the rectangle changes its size"]),
        ([Rect(100 + 10 * step, 50, 200 + 10 * step, 150) for step in range(10)], Loop.BOUNCE, []),
        ([Rect(100 + 10 * step, 50, 200 + 10 * step, 150) for step in range(10)], Loop.FORWARD, ["frame 0: the rectangle jumps"]),
        ([Rect(100, 50, 200, 180)] * 3, Loop.BOUNCE, ["far from square"]),
        ([Rect(0, 50, 100, 150)] * 3, Loop.BOUNCE, ["edge"]),
        ([Rect(540, 260, 640, 360)] * 3, Loop.BOUNCE, ["3 frames (0, 1, 2)"]),
    ],
)
def test_rectangles_that_do_not_follow_a_head_are_warned_of(rects: list[Rect], loop: Loop, says: list[str]) -> None:
    warnings = motion_warnings(rects, loop=loop, width=640, height=360)
    assert len(warnings) == len(says)
    assert all(part in warning for part, warning in zip(says, warnings, strict=True))


@pytest.mark.parametrize(("noise", "warned"), [(0, False), (2, False), (20, True)])
def test_rectangles_that_tremble_are_warned_of(noise: int, warned: bool) -> None:
    random = np.random.default_rng(6)
    rects = []
    for step in range(60):
        x, y = (np.array([200 + 20 * np.sin(step / 4), 90]) + random.integers(-noise, noise + 1, 2)).astype(int)
        rects.append(Rect(int(x), int(y), int(x) + 180, int(y) + 180))
    warnings = motion_warnings(rects, loop=Loop.BOUNCE, width=640, height=360)
    assert any("tremble" in warning for warning in warnings) == warned


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


def crop_video(path: Path, avatar: Avatar, *, size: int, shift: int = 0, noise: bool = False) -> None:
    """Writes the video that a training tool leaves: each frame's crop, cut out here by other means than ours."""
    random = np.random.default_rng(5)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10", "preset": "ultrafast"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(avatar.frame_count):
            at = min(max(index + shift, 0), avatar.frame_count - 1)
            picture = cv2.imread(str(avatar.frame_paths[at]))
            rect = avatar.rects[at]
            crop = cv2.resize(picture[rect.y1 : rect.y2, rect.x1 : rect.x2], (328, 328), interpolation=cv2.INTER_CUBIC)
            crop = crop[4:324, 4:324] if size == 320 else crop
            crop = random.integers(0, 256, crop.shape, np.uint8) if noise else crop
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(crop), format="bgr24")))
        container.mux(stream.encode())


@pytest.fixture
def restless(models_root: Path, old_avatar: Callable[..., Path], frame: Callable[..., NDArray[np.uint8]]) -> Callable[[], Avatar]:
    """An avatar whose rectangles stand still while the head moves: neighbouring crops differ."""
    folder = old_avatar()
    for index in range(20):
        cv2.imwrite(str(folder / "frames" / f"frame_{index:06d}.jpg"), frame(4 * index % 30))
    (folder / "crop_rects.json").write_text(json.dumps([[50, 20, 120, 90]] * 20))
    entry = ModelEntry.model_validate(
        {"crops_video_path": "sanders/crops_328_video.mp4", "rois_video_path": "sanders/rois_320_video.mp4"}
    )
    return lambda: AvatarCatalog(models_root, {"sanders": entry}).get("sanders")


def test_videos_of_the_crops_bear_witness(restless: Callable[[], Avatar], encoder: Make, models_root: Path) -> None:
    onnx.save(encoder(), models_root / "audio_encoder.onnx")
    avatar = restless()
    assert avatar.crops_video_path is not None
    assert avatar.rois_video_path is not None
    crop_video(avatar.crops_video_path, avatar, size=328)
    crop_video(avatar.rois_video_path, avatar, size=320)
    report = verify_avatar(avatar)
    assert (report.problems, report.warnings) == ((), ())
    assert "20 frames, differs by" in report.facts["crops_video_path"]
    assert "rois_video_path" in report.facts


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 328, "shift": 1}, "fits better one frame earlier"),
        ({"size": 328, "shift": -1}, "fits better one frame later"),
        ({"size": 328, "noise": True}, "does not show what the rectangles cut out"),
        ({"size": 320}, "is 320x320; expected 328x328"),
    ],
    ids=str,
)
def test_videos_that_show_something_else_are_a_warning(
    restless: Callable[[], Avatar], options: dict[str, Any], says: str
) -> None:
    avatar = restless()
    assert avatar.crops_video_path is not None
    crop_video(avatar.crops_video_path, avatar, **options)
    assert any(says in warning for warning in verify_avatar(avatar, run_networks=False).warnings)


def test_a_missing_video_is_a_warning(restless: Callable[[], Avatar]) -> None:
    warnings = verify_avatar(restless(), run_networks=False).warnings
    assert "crops_video_path: crops_328_video.mp4 is missing" in warnings
