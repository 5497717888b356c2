"""Listing, loading, unloading, statistics and health: of both services, and honest about each."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import cv2
import grpc
import pytest

from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2

from ..virtual_clock import VirtualClock
from .conftest import Running, write_avatar
from .fake_inference import FRAMES, HEIGHT, WIDTH, FakeInference, background, fine

Code = grpc.StatusCode


def load(service: Running, model_id: str = "demo", **fields: Any) -> Any:
    return service.stub.LoadModel(pb.LoadModelRequest(model_id=model_id, **fields), timeout=20)


def unload(service: Running, model_id: str = "demo") -> Any:
    return service.stub.UnloadModel(pb.UnloadModelRequest(model_id=model_id), timeout=20)


async def listed(service: Running) -> dict[str, pb.ModelInfo]:
    return {info.model_id: info for info in (await service.stub.ListModels(pb.ListModelsRequest())).models}


async def stats(service: Running, model_id: str = "") -> pb.GetModelStatsResponse:
    return await service.stub.GetModelStats(pb.GetModelStatsRequest(model_id=model_id))


async def health(service: Running) -> pb.HealthResponse:
    return await service.stub.Health(pb.HealthRequest())


async def test_every_avatar_is_listed_with_what_is_wrong_with_it(service: Running, models_root: Path) -> None:
    write_avatar(models_root, "broken")
    (models_root / "broken" / "crop_rects.json").unlink()
    models = await listed(service)
    assert sorted(models) == ["broken", "demo"]
    demo = models["demo"]
    assert (demo.loaded, demo.error, demo.frame_count, demo.width, demo.height, demo.fps) == (
        False,
        "",
        FRAMES,
        WIDTH,
        HEIGHT,
        25,
    )
    assert (demo.model_path, demo.background_dir, demo.crop_rects_path) == (
        "demo/network.onnx",
        "demo/frames",
        "demo/crop_rects.json",
    )
    assert "crop_rects.json" in models["broken"].error
    assert str(models_root) not in str(models["broken"])


async def test_load_acts_on_both_and_reads_the_backgrounds(service: Running, inference: FakeInference) -> None:
    response = await load(service)
    assert response.success
    assert response.load_time_ms > 0
    assert response.stats.memory_bytes > 0
    assert inference.loaded == {"demo"}
    assert (await listed(service))["demo"].loaded
    first = await service.composite()
    assert not first.model_loaded
    assert service.metric("lipsync_compositing_cache_misses_total") == 0


async def test_a_forced_reload_sees_new_files(service: Running, models_root: Path) -> None:
    await load(service)
    (models_root / "demo" / "frames" / "frame_000000.png").unlink()
    assert (await load(service)).success
    refusal = await service.refusal(load(service, force_reload=True))
    assert refusal.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("call", [load, unload])
@pytest.mark.parametrize(
    ("model_id", "code"),
    [
        ("nobody", Code.NOT_FOUND),
        ("", Code.INVALID_ARGUMENT),
        ("../x", Code.INVALID_ARGUMENT),
        ("x" * 10_000, Code.INVALID_ARGUMENT),
    ],
)
async def test_ids_that_cannot_be_loaded(service: Running, call: Any, model_id: str, code: Code) -> None:
    refusal = await service.refusal(call(service, model_id))
    assert refusal.code is code
    assert len(refusal.message) < 1000
    assert set(refusal.fields) == ({"model_id"} if code is Code.INVALID_ARGUMENT else set())


async def test_load_without_the_inference_service_is_no_success(service: Running, inference: FakeInference) -> None:
    await inference.stop()
    refusal = await service.refusal(load(service))
    assert refusal.code is Code.UNAVAILABLE
    assert "inference service" in refusal.message
    # The half that is ours was done, and says so.
    assert (await listed(service))["demo"].loaded


async def test_load_that_the_inference_service_refuses(service: Running, inference: FakeInference) -> None:
    inference.refuse_models_with = Code.FAILED_PRECONDITION
    refusal = await service.refusal(load(service))
    assert (refusal.code, refusal.message) == (Code.FAILED_PRECONDITION, "refused as told")


async def test_unload_acts_on_both(service: Running, inference: FakeInference) -> None:
    await load(service)
    assert (await unload(service)).success
    assert inference.loaded == set()
    assert not (await listed(service))["demo"].loaded


async def test_unload_of_what_only_one_side_has(service: Running, inference: FakeInference) -> None:
    await load(service)
    inference.known.clear()
    assert (await unload(service)).success
    refusal = await service.refusal(unload(service))
    assert refusal.code is Code.NOT_FOUND


async def test_unload_without_the_inference_service_tells_both_halves(service: Running, inference: FakeInference) -> None:
    await load(service)
    await inference.stop()
    refusal = await service.refusal(unload(service))
    assert refusal.code is Code.UNAVAILABLE
    assert "was unloaded here" in refusal.message
    assert "may still be loaded" in refusal.message
    assert not (await listed(service))["demo"].loaded


async def test_load_and_unload_reach_every_endpoint(serve: Any, inference: FakeInference) -> None:
    other = FakeInference()
    await other.start()
    async with serve(f"inference_server.url=127.0.0.1:{inference.port},127.0.0.1:{other.port}") as service:
        await load(service)
        assert inference.loaded == other.loaded == {"demo"}
        await unload(service)
        assert inference.loaded == other.loaded == set()
    await other.stop()


async def test_statistics(service: Running, models_root: Path) -> None:
    write_avatar(models_root, "idle")
    assert list((await stats(service)).models) == []
    await service.composite(batch_size=8)
    await service.composite(batch_size=8)
    everything = await stats(service)
    (demo,) = everything.models
    assert (demo.model_id, demo.loaded, demo.stats.usage_count) == ("demo", True, 2)
    assert demo.stats.total_inference_time_ms == 8.0  # two batches of two messages of 2 ms
    assert 0 < demo.stats.memory_bytes <= everything.total_memory_bytes <= everything.max_memory_bytes == 4 << 30
    assert demo.stats.last_used_unix_ms >= demo.stats.loaded_unix_ms > 1.6e12
    assert (everything.loaded_models, everything.max_models) == (1, 1000)
    (idle,) = (await stats(service, "idle")).models
    assert not idle.loaded
    for model_id, code in (("nobody", Code.NOT_FOUND), ("../x", Code.INVALID_ARGUMENT)):
        refusal = await service.refusal(service.stub.GetModelStats(pb.GetModelStatsRequest(model_id=model_id)))
        assert refusal.code is code


async def test_health_tells_the_state_of_both(service: Running, inference: FakeInference) -> None:
    reply = await health(service)
    assert (reply.healthy, reply.inference_server_healthy) == (True, True)
    assert reply.inference_server_url == f"127.0.0.1:{inference.port}"
    assert reply.version
    assert service.metric("lipsync_compositing_inference_up") == 1


@pytest.mark.parametrize("trouble", ["stopped", "unwell"])
async def test_health_while_the_inference_service_is_not_well(service: Running, inference: FakeInference, trouble: str) -> None:
    if trouble == "stopped":
        await inference.stop()
    else:
        inference.healthy = False
    reply = await health(service)
    assert (reply.healthy, reply.inference_server_healthy) == (True, False)
    assert service.metric("lipsync_compositing_inference_up") == 0


async def test_health_asks_once_however_many_want_to_know(service: Running, inference: FakeInference) -> None:
    replies = await asyncio.gather(*(health(service) for _ in range(20)))
    assert all(reply.inference_server_healthy for reply in replies)
    assert inference.health_asked == 1


async def test_avatars_are_preloaded_before_the_service_is_ready(serve: Any, models_root: Path) -> None:
    write_avatar(models_root, "broken")
    (models_root / "broken" / "crop_rects.json").unlink()
    async with serve("models.demo.preload_backgrounds=true", "models.broken.preload_backgrounds=true") as service:
        response = await service.composite()
        assert not response.model_loaded
        assert service.metric("lipsync_compositing_cache_misses_total") == 0
        assert (await listed(service))["broken"].error


async def test_metrics_of_a_batch(service: Running) -> None:
    await service.composite(batch_size=6)
    await service.composite(batch_size=6)
    stage = "lipsync_compositing_stage_seconds_count"
    assert service.metric("lipsync_compositing_frames_total") == 12
    assert service.metric("lipsync_compositing_batch_frames_sum") == 12
    assert service.metric(stage, stage="load") == 1
    assert service.metric(stage, stage="inference_wait") == 2
    assert service.metric(stage, stage="composite") == 4
    assert service.metric("lipsync_compositing_cache_frames") == FRAMES
    assert (service.metric("lipsync_compositing_cache_bytes") or 0) > 0


@pytest.mark.parametrize(("frames", "late"), [(1, 1), (2, 0)])
async def test_requests_that_take_longer_than_their_frames_play_are_counted(
    serve: Callable[..., Any], inference: FakeInference, frames: int, late: int
) -> None:
    clock = VirtualClock()

    async def slow(request: inference_pb2.InferBatchRequest, context: Any) -> AsyncIterator[inference_pb2.MouthRegion]:
        await clock.advance(0.06)  # a frame plays for 40 ms
        async for each in fine(request, context):
            yield each

    inference.script.append(slow)
    async with serve(clock=clock) as service:
        await service.composite(batch_size=frames)
        assert service.metric("lipsync_compositing_late_requests_total") == late


async def test_frames_of_the_earlier_layout_that_are_stored_turned_are_shown_upright(serve: Any, models_root: Path) -> None:
    folder = models_root / "demo"
    (folder / "avatar.yaml").unlink()
    (folder / "checkpoint").mkdir()
    (folder / "network.onnx").rename(folder / "checkpoint" / "model_best.onnx")
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    for index in range(FRAMES):
        lying = cv2.imencode(".png", cv2.rotate(background(index), cv2.ROTATE_90_COUNTERCLOCKWISE))[1].tobytes()
        chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
        (folder / "frames" / f"frame_{index:06d}.png").write_bytes(lying[:33] + chunk + lying[33:])
    async with serve("output.format=raw", "models.demo.idle_mouth=stored") as service:
        response = await service.composite(idle=True, batch_size=FRAMES)
        assert (response.width, response.height) == (WIDTH, HEIGHT)
        for index, frame in zip(response.frame_indices, response.composited_frames, strict=True):
            assert frame == background(index).tobytes()
