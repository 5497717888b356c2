"""Frames of a person who does not speak: stored pictures, within the avatar's range, with or without an inference service."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from avatar_kit.timeline import FrameRange, Loop
from shared_proto import compositing_pb2 as pb

from .conftest import Running, sound, write_avatar
from .fake_inference import FRAMES, HEIGHT, ROW_BYTES, WIDTH, WINDOW_BYTES, FakeInference, background

RAW = {"output_format": pb.FORMAT_RAW_BGR}


async def test_idle_frames_are_the_backgrounds_and_nobody_is_asked(service: Running, inference: FakeInference) -> None:
    reply = await service.composite(batch_size=11, start_frame_idx=3, idle=True, **RAW)
    assert list(reply.frame_indices) == [3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3]
    for picture, index in zip(reply.composited_frames, reply.frame_indices, strict=True):
        np.testing.assert_array_equal(np.frombuffer(picture, np.uint8).reshape(HEIGHT, WIDTH, 3), background(index))
    assert not inference.calls
    assert (reply.success, reply.width, reply.height, reply.gpu_id) == (True, WIDTH, HEIGHT, -1)
    assert (reply.inference_time_ms, reply.audio_processing_ms) == (0, 0)


async def test_idle_jpegs_are_the_backgrounds_encoded_and_always_the_same_bytes(service: Running) -> None:
    reply = await service.composite(batch_size=FRAMES, idle=True, jpeg_quality=90)
    for jpeg, index in zip(reply.composited_frames, range(FRAMES), strict=True):
        encoded = cv2.imencode(".jpg", background(index), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        decoded = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (jpeg, encoded)]
        np.testing.assert_array_equal(*decoded)
    again = await service.composite(batch_size=1, start_frame_idx=8, idle=True, jpeg_quality=90)
    assert list(again.composited_frames) == list(reply.composited_frames[:1])


async def test_without_an_inference_service(service: Running, inference: FakeInference) -> None:
    await inference.stop()
    reply = await service.composite(batch_size=7, idle=True)
    assert len(reply.composited_frames) == 7
    refusal = await service.refusal(service.composite(batch_size=1, timeout=2))
    assert refusal.code.name in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize(
    ("loop", "idle", "start", "frames", "following"),
    [
        (Loop.BOUNCE, FrameRange(1, 3), 0, [0, 1, 2, 3, 2, 1, 2, 3], 6),
        (Loop.FORWARD, FrameRange(1, 3), 4, [4, 0, 1, 2, 3, 1, 2, 3], 6),
        (Loop.BOUNCE, FrameRange(2, 2), 6, [2] * 8, 6),
        (Loop.FORWARD, None, 4, [4, 0, 1, 2, 3, 4, 0, 1], 12),
    ],
    ids=["bounce", "forward", "one frame", "the whole clip"],
)
async def test_the_range_of_the_avatar(
    service: Running, models_root: Path, loop: Loop, idle: FrameRange | None, start: int, frames: list[int], following: int
) -> None:
    write_avatar(models_root, "calm", loop=loop, idle=idle)
    whole = await service.composite(model_id="calm", batch_size=8, start_frame_idx=start, idle=True)
    assert (list(whole.frame_indices), whole.next_start_frame_idx) == (frames, following)
    parts, position = [], start
    for size in (3, 1, 4):
        part = await service.composite(model_id="calm", batch_size=size, start_frame_idx=position, idle=True)
        parts += part.composited_frames
        position = part.next_start_frame_idx
    assert (parts, position) == (list(whole.composited_frames), following)


async def test_the_range_that_the_settings_name_comes_first(serve: Any, models_root: Path) -> None:
    write_avatar(models_root, "calm", idle=FrameRange(0, 1))
    async with serve("models.calm.idle=2,3") as service:
        reply = await service.composite(model_id="calm", batch_size=6, start_frame_idx=2, idle=True)
    assert list(reply.frame_indices) == [2, 3, 2, 3, 2, 3]


async def test_from_speech_to_idle_to_speech_without_a_jump(service: Running, models_root: Path) -> None:
    write_avatar(models_root, "calm", idle=FrameRange(1, 2))
    shown, position = [], 0
    for idle in (False, True, True, False, True, False):
        reply = await service.composite(model_id="calm", batch_size=5, start_frame_idx=position, idle=idle)
        shown += reply.frame_indices
        position = reply.next_start_frame_idx
    assert all(abs(then - frame) == 1 for frame, then in itertools.pairwise(shown))


async def test_speech_says_where_to_go_on(service: Running) -> None:
    assert (await service.composite(batch_size=6, start_frame_idx=40)).next_start_frame_idx == 46


@pytest.mark.parametrize("idle", [False, True], ids=["speech", "idle"])
@pytest.mark.parametrize("loop", Loop)
async def test_the_position_after_the_last_of_int32_is_an_equal_one(
    service: Running, models_root: Path, loop: Loop, idle: bool
) -> None:
    write_avatar(models_root, "long", loop=loop)
    period = FRAMES if loop is Loop.FORWARD else 2 * (FRAMES - 1)
    start = 2**31 - 3
    reply = await service.composite(model_id="long", batch_size=7, start_frame_idx=start, idle=idle)
    assert reply.next_start_frame_idx == (start + 7) % period
    onwards = await service.composite(model_id="long", batch_size=1, start_frame_idx=reply.next_start_frame_idx, idle=idle)
    turn = (start + 7) % period
    assert list(onwards.frame_indices) == [turn if turn < FRAMES else period - turn]
    last = await service.composite(model_id="long", batch_size=2, start_frame_idx=start, idle=idle)
    assert last.next_start_frame_idx == 2**31 - 1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"raw_audio": sound(2)}, "raw_audio", id="sound"),
        pytest.param({"audio_features": bytes(WINDOW_BYTES)}, "audio_features", id="windows"),
        pytest.param({"feature_rows": bytes(17 * ROW_BYTES)}, "feature_rows", id="rows"),
        pytest.param({"stored_features": True}, "stored_features", id="stored features"),
        pytest.param({"visual_frames": b"abc"}, "visual_frames", id="pictures"),
        pytest.param({"raw_audio": b"abc", "feature_rows": b"x"}, "raw_audio and feature_rows", id="two of them"),
    ],
)
async def test_what_speech_is_made_from_is_refused(service: Running, fields: dict[str, Any], named: str) -> None:
    refusal = await service.refusal(service.composite(batch_size=2, idle=True, **fields))
    assert refusal.code.name == "INVALID_ARGUMENT"
    assert list(refusal.fields) == ["idle"]
    assert f"together with {named};" in refusal.fields["idle"]


async def test_other_problems_are_named_beside_it(service: Running) -> None:
    fields = {"raw_audio": sound(1), "batch_size": 51, "start_frame_idx": -1, "jpeg_quality": 200, "model_id": "../x"}
    refusal = await service.refusal(service.composite(idle=True, **fields))
    assert set(refusal.fields) == {"idle", "batch_size", "start_frame_idx", "jpeg_quality", "model_id"}


async def test_a_broken_frame_and_an_unknown_avatar_are_told(service: Running, models_root: Path) -> None:
    write_avatar(models_root, "torn")
    (models_root / "torn" / "frames" / "frame_000003.png").write_bytes(b"no picture")
    refusal = await service.refusal(service.composite(model_id="torn", batch_size=5, idle=True))
    assert refusal.code.name == "FAILED_PRECONDITION"
    assert "frame_000003.png" in refusal.message
    assert len((await service.composite(model_id="torn", batch_size=3, idle=True)).composited_frames) == 3
    assert (await service.refusal(service.composite(model_id="nobody", idle=True))).code.name == "NOT_FOUND"


async def test_raw_frames_that_no_reply_holds_are_refused(serve: Any) -> None:
    async with serve("server.max_message_size_mb=1") as service:
        refusal = await service.refusal(service.composite(batch_size=50, idle=True, **RAW))
    assert refusal.code.name == "RESOURCE_EXHAUSTED"


async def test_idle_frames_are_counted_and_composited_times_are_of_speech_alone(service: Running) -> None:
    await service.composite(batch_size=6, idle=True)
    assert service.metric("lipsync_compositing_frames_total") == 6
    for stage in ("composite", "inference_wait"):
        assert not service.metric("lipsync_compositing_stage_seconds_count", stage=stage)
