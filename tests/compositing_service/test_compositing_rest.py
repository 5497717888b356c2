"""Frames of a person who does not speak, with the network's mouth of silence: made once, kept, and stored pictures without it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from avatar_kit.timeline import IdleMouth
from compositing_service.backgrounds.resting import BROKEN_RETRY_S, RETRY_S
from shared_proto import compositing_pb2 as pb

from ..virtual_clock import VirtualClock
from .conftest import Running, mouth_colours, write_avatar
from .fake_inference import FRAMES, HEIGHT, SILENCE, WIDTH, FakeInference, background, refuse

RAW = {"output_format": pb.FORMAT_RAW_BGR}
ONCE_ROUND = [0, 1, 2, 3, 4, 3, 2, 1, 0]


@pytest.fixture
def models_root(models_root: Path) -> Path:
    write_avatar(models_root, "calm", idle_mouth=IdleMouth.REST)
    return models_root


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def service(serve: Any, clock: VirtualClock) -> AsyncIterator[Running]:
    async with serve("inference_server.max_retries=0", clock=clock) as running:
        yield running


async def idle(service: Running, *, frames: int = len(ONCE_ROUND), **fields: Any) -> pb.CompositeBatchResponse:
    return await service.composite(**{"model_id": "calm", "batch_size": frames, "idle": True, **RAW, **fields})


def ordered(inference: FakeInference) -> list[int]:
    return [index for call in inference.calls for index in call.request.frame_indices]


def unrested(service: Running) -> float | None:
    return service.metric("lipsync_compositing_unrested_frames_total")


def stored_frames(reply: pb.CompositeBatchResponse) -> list[bool]:
    """The raw frames that are the stored pictures."""
    pictures = [np.frombuffer(frame, np.uint8).reshape(HEIGHT, WIDTH, 3) for frame in reply.composited_frames]
    return [bool((picture == background(index)).all()) for picture, index in zip(pictures, reply.frame_indices, strict=True)]


async def test_the_mouth_of_silence_is_asked_for_once_a_picture(service: Running, inference: FakeInference) -> None:
    reply = await idle(service)
    assert list(reply.frame_indices) == ONCE_ROUND
    assert mouth_colours(reply) == [(index, 0, SILENCE) for index in ONCE_ROUND]
    assert ordered(inference) == [0, 1, 2, 3, 4]
    assert all(call.request.due_in_ms == 0 for call in inference.calls), "batch work"
    again = await idle(service, start_frame_idx=3)
    assert mouth_colours(again) == [(index, 0, SILENCE) for index in again.frame_indices]
    assert len(inference.calls) == len(inference.encoded) == 1
    assert unrested(service) == 0
    assert service.metric("lipsync_compositing_cache_resting") == FRAMES
    assert service.metric("lipsync_compositing_frames_total") == 2 * len(ONCE_ROUND)


async def test_each_quality_has_its_own_and_the_bytes_of_a_frame_with_that_mouth(
    service: Running, inference: FakeInference
) -> None:
    window = np.full((16, 512), SILENCE, "<f4").tobytes()
    for quality in (75, 90):
        fields = {"output_format": pb.FORMAT_JPEG, "jpeg_quality": quality}
        first, again = [await idle(service, frames=FRAMES, **fields) for _ in range(2)]
        spoken = await service.composite(model_id="calm", batch_size=FRAMES, audio_features=window, **fields)
        assert list(first.composited_frames) == list(again.composited_frames) == list(spoken.composited_frames)
    assert ordered(inference) == [0, 1, 2, 3, 4] * 4
    assert len(inference.encoded) == 1, "the row of silence is asked for once"


async def test_avatars_whose_owner_says_so_are_shown_as_stored(serve: Any, inference: FakeInference) -> None:
    async with serve("models.calm.idle_mouth=stored") as service:
        reply = await idle(service)
        assert (all(stored_frames(reply)), unrested(service)) == (True, 0)
    assert not inference.calls
    async with serve("models.demo.idle_mouth=rest") as service:
        assert mouth_colours(await idle(service, model_id="demo", frames=2)) == [(0, 0, SILENCE), (1, 0, SILENCE)]


async def test_without_an_inference_service_the_pictures_are_the_stored_ones_until_it_is_back(
    service: Running, inference: FakeInference, clock: VirtualClock
) -> None:
    await idle(service, frames=2)
    await inference.stop()
    assert stored_frames(await idle(service, frames=FRAMES)) == [False, False, True, True, True]
    assert unrested(service) == 3
    await inference.start()
    inference.calls.clear()
    assert stored_frames(await idle(service, frames=FRAMES)) == [False, False, True, True, True]
    assert not inference.calls, "it is not asked again at once"
    async with asyncio.timeout(60):  # until gRPC has connected again
        while not inference.calls:
            await clock.advance(RETRY_S)
            reply = await idle(service, frames=FRAMES)
            await asyncio.sleep(0.05)
    assert stored_frames(reply) == [False] * FRAMES
    assert ordered(inference) == [2, 3, 4]
    assert (unrested(service) or 0) >= 6


async def test_mouths_that_came_before_a_failure_are_shown(service: Running, inference: FakeInference) -> None:
    inference.script.append(refuse(grpc.StatusCode.UNAVAILABLE, after=4))
    assert stored_frames(await idle(service, frames=FRAMES)) == [False] * 4 + [True]


@pytest.mark.parametrize("code", [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND])
async def test_a_network_that_is_broken_is_logged_once_and_tried_again_later(
    service: Running, inference: FakeInference, clock: VirtualClock, caplog: pytest.LogCaptureFixture, code: grpc.StatusCode
) -> None:
    inference.script.extend([refuse(code, "a broken network")] * 2)
    with caplog.at_level(logging.WARNING, "compositing_service.backgrounds.resting"):
        for _ in range(2):
            assert stored_frames(await idle(service, frames=FRAMES)) == [True] * FRAMES
            await clock.advance(BROKEN_RETRY_S)
    told = [record.getMessage() for record in caplog.records if record.name.endswith("resting")]
    assert len(told) == 1
    assert "calm" in told[0]
    assert "a broken network" in told[0]
    assert stored_frames(await idle(service, frames=FRAMES)) == [False] * FRAMES


async def test_an_avatar_replaced_there_is_loaded_anew_here(
    service: Running, inference: FakeInference, models_root: Path
) -> None:
    await idle(service)
    inference.script.append(refuse(grpc.StatusCode.ABORTED))
    write_avatar(models_root, "new", idle_mouth=IdleMouth.REST)
    (models_root / "calm").rename(models_root / "old")
    (models_root / "new").rename(models_root / "calm")
    manifest = models_root / "calm" / "avatar.yaml"
    manifest.write_text(manifest.read_text() + "# changed\n")
    inference.calls.clear()
    reply = await idle(service, jpeg_quality=50, output_format=pb.FORMAT_JPEG)
    assert [len(call.request.frame_indices) for call in inference.calls] == [FRAMES, FRAMES]
    assert len({call.request.avatar_version for call in inference.calls}) == 2
    assert len(reply.composited_frames) == len(ONCE_ROUND)


async def test_pictures_that_find_no_room_are_made_each_time(serve: Any, inference: FakeInference) -> None:
    async with serve("capacity.max_memory_gb=0.00001") as service:
        for _ in range(2):
            assert mouth_colours(await idle(service, frames=3)) == [(index, 0, SILENCE) for index in range(3)]
        assert unrested(service) == 0
    assert ordered(inference) == [0, 1, 2] * 2
