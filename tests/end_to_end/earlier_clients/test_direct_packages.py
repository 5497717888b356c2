"""Clients of the earlier direct server that load packages, and ask for their facts and pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ...jpegs import decoded
from ..avatars import HEIGHT, WIDTH, background, rect, write_avatar
from ..contract_client import ContractClient, network_input
from ..stored_rows import rows
from .conftest import FRAMES


@pytest.mark.parametrize(
    "package_dir", ["/elsewhere/packages/heard", "minimal_server/models/heard/", "C:\\models\\heard", "../../heard", "heard"]
)
def test_a_package_is_looked_for_in_our_folder_alone(direct: ContractClient, package_dir: str) -> None:
    reply = direct("LoadPackage", package_name="whatever", package_dir=package_dir)
    assert (reply.success, reply.package_name, reply.error) == (True, "heard", "")
    assert reply.frame_count == FRAMES
    assert reply.device == "CPU"
    assert "heard" in reply.message
    assert list(reply.audio_features_shape) == [FRAMES - 1, 512]
    assert reply.memory_mapped_audio
    assert "heard" in direct("ListModels").loaded_models


def test_a_package_by_its_name(direct: ContractClient) -> None:
    reply = direct("LoadPackage", package_name="silent")
    assert (reply.package_name, list(reply.audio_features_shape), reply.memory_mapped_audio) == ("silent", [], False)


def test_stats_count_the_frames_that_were_made(direct: ContractClient) -> None:
    direct("GenerateInference", model_name="heard", frame_id=0)
    before = direct("GetStats", model_name="heard")
    direct("GenerateBatchInference", model_name="heard", frame_ids=[1, 2, 3])
    after = direct("GetStats", model_name="heard")
    assert after.total_requests == before.total_requests + 3
    assert 0 < after.min_inference_time_ms <= after.avg_inference_time_ms <= after.max_inference_time_ms
    assert (after.model_name, after.frame_count, after.device) == ("heard", FRAMES, "CPU")
    assert list(after.optimizations_active) == ["memory_mapped_features", "spliced_jpeg"]
    unused = direct("GetStats", model_name="silent")
    assert (unused.total_requests, unused.min_inference_time_ms, unused.frame_count) == (0, 0, 5)
    assert "memory_mapped_features" not in unused.optimizations_active


def test_the_direct_health_and_list(direct: ContractClient) -> None:
    direct("LoadPackage", package_name="heard")
    listed = direct("ListModels")
    assert listed.count == len(listed.loaded_models) >= 1
    health = direct("HealthCheck")
    assert (health.healthy, health.status, health.loaded_models) == (True, "ready", listed.count)
    assert health.uptime_seconds >= 0


def test_metadata(direct: ContractClient) -> None:
    reply = direct("GetModelMetadata", model_name="heard")
    assert (reply.success, reply.model_name, reply.frame_count, reply.error) == (True, "heard", FRAMES, "")
    assert reply.audio_path == "heard/aud_ave.npy"
    box = rect(0)
    assert list(reply.bounds) == [box.x1, box.y1, box.x2, box.y2]
    assert len(reply.available_videos) == 6
    for video_type in reply.available_videos:
        assert direct("GetVideoFrame", model_name="heard", frame_id=0, video_type=video_type).success
    assert direct("GetModelMetadata", model_name="silent").audio_path == ""


def test_every_kind_of_video_frame(direct: ContractClient) -> None:
    """Against the crops that the earlier clients make themselves."""
    index = 9
    seen = network_input(index) * 255
    unmasked, masked = (seen[planes].transpose(1, 2, 0) for planes in (slice(0, 3), slice(3, 6)))
    box = rect(index)
    crop = cv2.resize(decoded(background(index))[box.y1 : box.y2, box.x1 : box.x2], (328, 328), interpolation=cv2.INTER_CUBIC)
    wanted = {
        "full_body": decoded(background(index)),
        "crops_328": crop,
        "rois_320": unmasked,
        "face_regions": unmasked,
        "model_inputs": masked,
        "masked_regions": masked,
    }
    for video_type, picture in wanted.items():
        reply = direct("GetVideoFrame", model_name="heard", frame_id=index, video_type=video_type)
        assert (reply.success, reply.frame_id, reply.video_type, reply.error) == (True, index, video_type, "")
        shown = decoded(reply.frame_data)
        assert shown.shape == picture.shape
        assert np.abs(shown.astype(float) - picture).mean() < 4, video_type
    assert wanted["full_body"].shape == (HEIGHT, WIDTH, 3)


def test_an_avatar_that_was_replaced_is_served_anew(direct: ContractClient, root: Path) -> None:
    """Its old pictures are gone, and only one of them is in memory."""
    direct("GenerateInference", model_name="changing", frame_id=0)
    write_avatar(root, "changing", features=rows(5), seed=70, replace=True)
    assert direct("GetVideoFrame", model_name="heard", frame_id=3, video_type="full_body").success
    reply = direct("GenerateInference", model_name="changing", frame_id=3)
    shown, wanted = decoded(reply.prediction_data), decoded(background(73))
    assert np.abs(shown[:, :60].astype(int) - wanted[:, :60]).mean() < 4
    write_avatar(root, "changing", features=rows(5), seed=90, replace=True)
    reply = direct("GetVideoFrame", model_name="changing", frame_id=2, video_type="full_body")
    assert np.abs(decoded(reply.frame_data).astype(int) - decoded(background(92))).mean() < 4
