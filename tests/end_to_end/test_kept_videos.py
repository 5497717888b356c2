"""An avatar that keeps its video against the same one with its frames as lossless pictures, through both services."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avatar_kit.avatar import load_avatar
from avatar_kit.timeline import FrameRange
from shared_proto import compositing_pb2 as pb

from ..filmed import both_forms
from .avatars import write_avatar
from .conftest import CALL_S, PATIENT, SAMPLES_A_FRAME, Duo, serving

FRAMES = 60


@pytest.fixture(scope="module")
def filmed_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Avatars of 60 frames: "kept" and "extracted", the same in the older servers' layout: "old" and "old-pictures"; and "calm"
    and "calm-pictures", which have stored features, a fixed reference and an idle range.
    """
    root = tmp_path_factory.mktemp("filmed")
    small = write_avatar(tmp_path_factory.mktemp("small"), "small", frames=10)
    kept, extracted = both_forms(small, root, rounds=FRAMES // 10, keyframes=20)
    assert kept.audio_encoder_path
    shutil.copyfile(kept.audio_encoder_path, root / "audio_encoder.onnx")
    for name, source in (("old", kept), ("old-pictures", extracted)):
        (root / name / "checkpoint").mkdir(parents=True)
        shutil.copyfile(source.network_path, root / name / "checkpoint" / "model_best.onnx")
        shutil.copyfile(source.root / "crop_rects.json", root / name / "crop_rects.json")
    rows = np.random.default_rng(3).uniform(0, 4, (FRAMES - 1, 512)).astype(np.float32)
    calm = {"features": rows, "reference_frame": 35, "idle": FrameRange(18, 41)}
    both_forms(small, root, names=("calm", "calm-pictures"), rounds=FRAMES // 10, keyframes=20, **calm)
    shutil.copyfile(kept.frames.place, root / "old" / "clip.mp4")
    shutil.copytree(extracted.frames.place, root / "old-pictures" / "frames")
    return root


def contents(root: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")}


@pytest.fixture(scope="module")
def fresh(filmed_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    """Both services; each test that wants its avatars not yet loaded has some of its own. They write nothing where these lie."""
    before = contents(filmed_root)
    logs = tmp_path_factory.mktemp("logs")
    ignored = "models.calm.reference=current"  # which is for the other service to know
    with serving(filmed_root, logs, "models.old.source_video=old/clip.mp4", compositing=[ignored, PATIENT]) as both:
        yield both
    assert contents(filmed_root) == before


def frames(duo: Duo, model_id: str, sound: np.ndarray, first: int, count: int, **fields: Any) -> list[bytes]:
    start = max(0, first - 10)
    part = sound[start * SAMPLES_A_FRAME : (first + count + 12) * SAMPLES_A_FRAME]
    request = pb.CompositeBatchRequest(
        model_id=model_id,
        raw_audio=part.tobytes(),
        batch_size=count,
        lead_in_frames=first - start,
        audio_start_frame=start,
        start_frame_idx=first,
        **fields,
    )
    return list(duo.pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [("kept", "extracted"), ("old", "old-pictures")], ids=["kept", "older layout"])
def test_eight_callers_at_once_get_the_bytes_of_pictures(fresh: Duo, speech: np.ndarray, pair: tuple[str, str]) -> None:
    """Nothing is loaded yet: they come while the video is gone through in both services."""
    filmed, pictures = pair
    places = [100, 5, 44, 30, 71, 0, 57, 18]  # beyond 59 the clip runs back
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda first: frames(fresh, filmed, speech, first, 16), places))
    for first, shown in zip(places, got, strict=True):
        assert shown == frames(fresh, pictures, speech, first, 16)
    for fields in ({"jpeg_quality": 31}, {"output_format": pb.FORMAT_RAW_BGR}):
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda first: frames(fresh, filmed, speech, first, 8, **fields), places[:4]))  # noqa: B023
        for first, shown in zip(places, got, strict=False):
            assert shown == frames(fresh, pictures, speech, first, 8, **fields)


@pytest.mark.slow
def test_all_properties_at_once(fresh: Duo, speech: np.ndarray) -> None:
    """Speech, stored features and idle frames go on from one another, while the video is gone through and afterwards."""

    def session(model_id: str, first: int) -> list[tuple[int, bytes]]:
        shown, position = [], first
        for count, kind in ((7, "raw_audio"), (9, "idle"), (16, "stored_features"), (5, "idle"), (30, "idle"), (3, "raw_audio")):
            fields = {kind: speech[: SAMPLES_A_FRAME * 20].tobytes() if kind == "raw_audio" else True}
            request = pb.CompositeBatchRequest(model_id=model_id, batch_size=count, start_frame_idx=position, **fields)
            reply = fresh.pictures.InferBatchComposite(request, timeout=CALL_S)
            position = reply.next_start_frame_idx
            shown += zip(reply.frame_indices, reply.composited_frames, strict=True)
        return shown

    places = [90, 12, 51, 35]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda first: session("calm", first), places))
    for first, shown in zip(places, got, strict=True):
        assert shown == session("calm-pictures", first)
        assert all(abs(then - frame) == 1 for (frame, _), (then, _) in itertools.pairwise(shown))


@pytest.mark.slow
def test_loading_says_where_its_frames_are(fresh: Duo) -> None:
    loaded = fresh.pictures.LoadModel(pb.LoadModelRequest(model_id="kept", force_reload=True), timeout=CALL_S)
    assert loaded.success
    listed = fresh.pictures.ListModels(pb.ListModelsRequest(), timeout=CALL_S)
    infos = {info.model_id: info for info in listed.models}
    assert infos["kept"].background_dir == "kept/background.mp4"
    assert infos["old"].background_dir == "old/clip.mp4"
    assert infos["extracted"].background_dir == "extracted/frames"
    assert (infos["kept"].frame_count, infos["old"].frame_count) == (FRAMES, FRAMES)
    assert all(not info.error for info in infos.values())


def test_both_forms_have_the_same_frames(filmed_root: Path) -> None:
    kept, extracted = (load_avatar(filmed_root / name) for name in ("kept", "extracted"))
    for index in range(0, FRAMES, 7):
        np.testing.assert_array_equal(kept.read_frame(index), extracted.read_frame(index))
