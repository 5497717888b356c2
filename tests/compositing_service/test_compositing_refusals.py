"""Requests that cannot be served: each gets its status, a sentence and its fields, and the service goes on as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from shared_proto import compositing_pb2 as pb

from .conftest import Running, sound, write_avatar
from .fake_inference import FRAMES, FakeInference

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def with_one(value: float) -> bytes:
    values = np.zeros(1280, "<f4")
    values[640] = value
    return values.tobytes()


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        pytest.param({"model_id": "nobody"}, NOT_FOUND, set(), id="unknown avatar"),
        pytest.param({"model_id": ""}, INVALID, {"model_id"}, id="no id"),
        pytest.param({"model_id": "../x"}, INVALID, {"model_id"}, id="path"),
        pytest.param({"model_id": "a" * 10_000}, INVALID, {"model_id"}, id="endless id"),
        pytest.param({"model_id": "\u202e\U0001f642\n"}, INVALID, {"model_id"}, id="id of odd characters"),
        pytest.param({"batch_size": 0}, INVALID, {"batch_size"}, id="no frames"),
        pytest.param({"batch_size": -1}, INVALID, {"batch_size"}, id="negative batch"),
        pytest.param({"batch_size": 10**6}, INVALID, {"batch_size"}, id="a million frames"),
        pytest.param({"start_frame_idx": -1}, INVALID, {"start_frame_idx"}, id="negative position"),
        pytest.param({"start_frame_idx": -(2**31)}, INVALID, {"start_frame_idx"}, id="lowest int32"),
        pytest.param({"raw_audio": b"abc"}, INVALID, {"raw_audio"}, id="3 bytes"),
        pytest.param({"raw_audio": with_one(np.nan)}, INVALID, {"raw_audio"}, id="NaN"),
        pytest.param({"raw_audio": with_one(np.inf)}, INVALID, {"raw_audio"}, id="infinity"),
        pytest.param({"raw_audio": bytes(4 * 16_000 * 600)}, INVALID, {"raw_audio"}, id="ten minutes"),
        pytest.param({"sample_rate": 7}, INVALID, {"sample_rate"}, id="7 Hz"),
        pytest.param({"sample_rate": 10**9}, INVALID, {"sample_rate"}, id="1 GHz"),
        pytest.param({"audio_features": bytes(5)}, INVALID, {"audio_features"}, id="features of 5 bytes"),
        pytest.param({"feature_rows": bytes(2048 * 6)}, INVALID, {"feature_rows"}, id="too few rows"),
        pytest.param({"visual_frames": bytes(5)}, INVALID, {"visual_frames"}, id="pictures of 5 bytes"),
        pytest.param({"visual_frames": bytes(101 << 20)}, EXHAUSTED, set(), id="message over the limit"),
        pytest.param({"jpeg_quality": 101}, INVALID, {"jpeg_quality"}, id="quality beyond 100"),
        pytest.param({"jpeg_quality": 50, "quality_preset": pb.QUALITY_LOW}, INVALID, {"jpeg_quality"}, id="quality twice"),
        pytest.param({"output_format": 99}, INVALID, {"output_format"}, id="unknown format"),
        pytest.param(
            {"batch_size": 0, "sample_rate": 7, "raw_audio": b"abc", "start_frame_idx": -1, "jpeg_quality": -1},
            INVALID,
            {"batch_size", "sample_rate", "raw_audio", "start_frame_idx", "jpeg_quality"},
            id="everything at once",
        ),
    ],
)
async def test_bad_requests(
    service: Running, inference: FakeInference, fields: dict[str, Any], code: grpc.StatusCode, named: set[str]
) -> None:
    refusal = await service.refusal(service.composite(**fields))
    assert (refusal.code, set(refusal.fields)) == (code, named)
    assert 10 < len(refusal.message) < 2000
    assert not inference.calls
    assert (await service.composite()).success


async def test_silence_of_the_caller_is_no_sound(service: Running) -> None:
    call = service.stub.InferBatchComposite(pb.CompositeBatchRequest(model_id="demo", batch_size=1))
    refusal = await service.refusal(call)
    assert (refusal.code, set(refusal.fields)) == (INVALID, {"raw_audio"})


@pytest.mark.parametrize("damage", ["missing frame", "truncated frame", "empty frame", "no rectangles", "rectangle outside"])
async def test_a_broken_avatar(service: Running, models_root: Path, damage: str) -> None:
    write_avatar(models_root, "broken")
    folder = models_root / "broken"
    frame, rects = folder / "frames" / "frame_000002.png", folder / "crop_rects.json"
    match damage:
        case "missing frame":
            frame.unlink()
        case "truncated frame":
            frame.write_bytes(frame.read_bytes()[:-200])
        case "empty frame":
            frame.write_bytes(b"")
        case "no rectangles":
            rects.unlink()
        case _:
            rects.write_text(str([[150, 100, 250, 200]] * FRAMES))
    refusal = await service.refusal(service.composite(model_id="broken", batch_size=FRAMES))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert str(models_root) not in refusal.message
    assert (await service.composite()).success


async def test_a_mended_avatar_is_served_without_restart(service: Running, models_root: Path) -> None:
    write_avatar(models_root, "mended")
    frame = models_root / "mended" / "frames" / "frame_000002.png"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:-200])
    refusal = await service.refusal(service.composite(model_id="mended", batch_size=FRAMES))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "frame_000002" in refusal.message
    frame.write_bytes(whole)
    assert (await service.composite(model_id="mended", batch_size=FRAMES)).success


async def test_the_limits_are_the_configured_ones(serve: Any) -> None:
    async with serve("limits.max_batch_size=2", "limits.max_audio_seconds=0.1") as service:
        refusal = await service.refusal(service.composite(batch_size=3, raw_audio=sound(3)))
        assert set(refusal.fields) == {"batch_size", "raw_audio"}
        assert (await service.composite(batch_size=2)).success
