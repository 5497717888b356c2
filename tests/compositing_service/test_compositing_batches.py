"""A batch through the service: the right mouth in the right place on the right frame, in order, whatever the old clients send."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import cv2
import grpc
import numpy as np
import pytest

from avatar_kit.timeline import Loop
from compositing_service.request import CompositeOrder, RequestRules, read_order
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2

from .conftest import Running, mouth_colours, sound, write_avatar
from .fake_inference import FRAMES, HEIGHT, ROW_BYTES, WIDTH, WINDOW_BYTES, FakeInference, region, send

RAW = {"output_format": pb.FORMAT_RAW_BGR}
PICTURE = 6 * 320 * 320
PATIENCE_S = 60


def bounce(position: int) -> int:
    """Written out: 0 1 2 3 4 3 2 1 0 1 ..."""
    return [0, 1, 2, 3, 4, 3, 2, 1][position % 8]


async def test_each_frame_has_its_own_mouth_and_background(service: Running) -> None:
    response = await service.composite(batch_size=11, start_frame_idx=3, lead_in_frames=10, **RAW)
    assert list(response.frame_indices) == [bounce(3 + k) for k in range(11)]
    assert mouth_colours(response) == [(bounce(3 + k), 10 + k, 0) for k in range(11)]


async def test_mouths_may_come_in_the_size_of_their_rectangles(service: Running, inference: FakeInference) -> None:
    """All of them, or some: an older inference service does not know how."""

    def resized(sent: inference_pb2.InferBatchRequest) -> inference_pb2.MouthRegion:
        made = region(sent, 0, 4)
        whole = np.frombuffer(made.data, np.uint8).reshape(4, 320, 320, 3)
        made.data = b"".join(mouth.tobytes() for mouth in (whole[0, :100, :100], whole[1], *whole[2:, :100, :100]))
        made.widths.extend([100, 320, 100, 100])
        made.heights.extend([100, 320, 100, 100])
        return made

    inference.script.append(send(resized, lambda sent: region(sent, 4, 2)))
    response = await service.composite(batch_size=6, lead_in_frames=10, **RAW)
    assert mouth_colours(response) == [(bounce(k), 10 + k, 0) for k in range(6)]
    assert inference.calls[-1].request.mouth_fit == inference_pb2.FIT_MOUTH


async def test_a_mouth_of_another_size_is_refused(service: Running, inference: FakeInference) -> None:
    def odd(sent: inference_pb2.InferBatchRequest) -> inference_pb2.MouthRegion:
        made = region(sent, 0, 1)
        made.data = made.data[: 99 * 100 * 3]
        made.widths.append(99)
        made.heights.append(100)
        return made

    inference.script.append(send(odd))
    assert (await service.refusal(service.composite())).code is grpc.StatusCode.INTERNAL


async def test_the_answer_says_what_was_done(service: Running, inference: FakeInference) -> None:
    first = await service.composite(batch_size=6)
    again = await service.composite(batch_size=6)
    assert (first.success, first.error, first.gpu_id) == (True, "", 3)
    assert (first.width, first.height, first.output_format) == (WIDTH, HEIGHT, pb.FORMAT_JPEG)
    # Two messages of 2 ms; the sound was worked on once.
    assert (first.inference_time_ms, first.audio_processing_ms) == (4.0, 1.5)
    assert first.model_loaded
    assert first.total_time_ms >= first.model_load_time_ms > 0
    assert first.composite_time_ms > 0
    assert not again.model_loaded
    assert again.model_load_time_ms == 0


async def test_jpegs_are_the_raw_frames_encoded(service: Running) -> None:
    jpegs = await service.composite(jpeg_quality=90)
    raws = await service.composite(**RAW)
    for jpeg, raw in zip(jpegs.composited_frames, raws.composited_frames, strict=True):
        picture = np.frombuffer(raw, np.uint8).reshape(HEIGHT, WIDTH, 3)
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        decoded = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (jpeg, encoded)]
        np.testing.assert_array_equal(*decoded)


async def test_quality_makes_files_larger(service: Running) -> None:
    sizes = []
    for fields in ({"quality_preset": pb.QUALITY_LOW}, {}, {"quality_preset": pb.QUALITY_HIGH}, {"jpeg_quality": 100}):
        response = await service.composite(batch_size=1, **fields)
        sizes.append(len(response.composited_frames[0]))
    assert sizes == sorted(set(sizes))


async def test_the_configured_format_and_quality_are_the_default(serve: Any) -> None:
    async with serve("output.format=raw") as service:
        response = await service.composite(batch_size=2)
        assert response.output_format == pb.FORMAT_RAW_BGR
        assert [len(frame) for frame in response.composited_frames] == [WIDTH * HEIGHT * 3] * 2
        jpeg = await service.composite(batch_size=1, output_format=pb.FORMAT_JPEG)
        assert jpeg.composited_frames[0].startswith(b"\xff\xd8")


async def test_forward_avatars_and_positions_near_the_end_of_int32(service: Running, models_root: Any) -> None:
    write_avatar(models_root, "forward", loop=Loop.FORWARD)
    start = 2**31 - 3
    response = await service.composite(model_id="forward", batch_size=7, start_frame_idx=start, **RAW)
    assert list(response.frame_indices) == [(start + k) % FRAMES for k in range(7)]
    assert [blue for blue, _, _ in mouth_colours(response)] == [(start + k) % FRAMES for k in range(7)]


async def test_pictures_of_old_clients_one_for_the_batch(service: Running) -> None:
    one = np.full(6 * 320 * 320, 77, "<f4").tobytes()
    response = await service.composite(batch_size=3, visual_frames=one, **RAW)
    assert [blue for blue, _, _ in mouth_colours(response)] == [77, 77, 77]


async def test_pictures_of_old_clients_one_a_frame(service: Running) -> None:
    each = np.repeat(np.array([7, 8, 9], "<f4"), 6 * 320 * 320).tobytes()
    response = await service.composite(batch_size=3, visual_frames=each, **RAW)
    assert [blue for blue, _, _ in mouth_colours(response)] == [7, 8, 9]
    assert list(response.frame_indices) == [0, 1, 2]


@pytest.mark.parametrize(
    ("field", "floats", "expected"),
    [
        pytest.param("audio_features", np.full(8192, 5), [5, 5, 5], id="one window for the batch"),
        pytest.param("audio_features", np.repeat([5, 6, 7], 8192), [5, 6, 7], id="one window a frame"),
        pytest.param("feature_rows", np.repeat(np.arange(18), 512), [0, 1, 2], id="rows"),
    ],
)
async def test_features_instead_of_sound(service: Running, field: str, floats: Any, expected: list[int]) -> None:
    response = await service.composite(batch_size=3, **{field: floats.astype("<f4").tobytes()}, **RAW)
    assert [red for _, _, red in mouth_colours(response)] == expected


async def test_sound_wins_over_features(service: Running, inference: FakeInference) -> None:
    await service.composite(
        batch_size=2, raw_audio=sound(2), audio_features=bytes(WINDOW_BYTES), feature_rows=bytes(17 * ROW_BYTES)
    )
    (call,) = inference.calls
    assert call.request.raw_audio == sound(2)
    assert not call.request.audio_features
    assert not call.request.feature_rows


async def test_what_concerns_the_sound_is_handed_on(service: Running, inference: FakeInference) -> None:
    fields = {"audio_encoding": pb.PCM_INT16, "audio_start_frame": 35, "sample_rate": 48000, "lead_in_frames": 3}
    await service.composite(batch_size=2, raw_audio=bytes(1920 * 2 * 5), **fields)
    (call,) = inference.calls
    assert {name: getattr(call.request, name) for name in fields} == fields
    assert (call.request.model_id, call.request.batch_size) == ("demo", 2)


async def test_ids_of_the_request_reach_the_inference_service(service: Running, inference: FakeInference) -> None:
    await service.composite(metadata=(("x-request-id", "order-66"), ("x-session-id", "s1"), ("x-avatar-id", "somebody-else")))
    (call,) = inference.calls
    names = ("x-request-id", "x-session-id", "x-avatar-id")
    assert [call.metadata.get(name) for name in names] == ["order-66", "s1", "demo"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 12])
async def test_the_size_of_the_groups_does_not_matter(service: Running, inference: FakeInference, size: int) -> None:
    reference = await service.composite(batch_size=12)
    groups = [(first, min(size, 12 - first)) for first in range(0, 12, size)]
    inference.script.append(send(*(lambda sent, group=group: region(sent, *group) for group in groups)))
    response = await service.composite(batch_size=12)
    assert list(response.composited_frames) == list(reference.composited_frames)


async def test_many_callers_get_their_own_frames_in_order(service: Running, inference: FakeInference) -> None:
    responses = await asyncio.gather(
        *(service.composite(batch_size=9, start_frame_idx=start, lead_in_frames=start, **RAW) for start in range(8))
    )
    for start, response in enumerate(responses):
        assert mouth_colours(response) == [(bounce(start + k), start + k, 0) for k in range(9)]


async def test_frames_are_composited_while_later_ones_are_inferred(service: Running, inference: FakeInference) -> None:
    await service.composite(batch_size=1)
    composited = asyncio.Event()

    async def wait_for_the_first(request: Any, _: Any) -> Any:
        yield region(request, 0, 4)
        await composited.wait()
        yield region(request, 4, 2)

    inference.script.append(wait_for_the_first)
    before = jobs_done(service)
    call = asyncio.create_task(service.composite(batch_size=6))
    while jobs_done(service) == before:  # noqa: ASYNC110 - the metric tells nobody
        await asyncio.sleep(0.001)
    composited.set()
    assert len((await call).composited_frames) == 6


def jobs_done(service: Running) -> float:
    """Pictures that were made, by the store's own count."""
    hits = service.metric("lipsync_compositing_cache_hits_total") or 0
    return hits + (service.metric("lipsync_compositing_cache_misses_total") or 0)


async def test_raw_frames_that_no_reply_holds_are_refused_before_any_work(serve: Any, inference: FakeInference) -> None:
    async with serve("server.max_message_size_mb=1") as service:
        fitting = (1 << 20) // (WIDTH * HEIGHT * 3)
        refusal = await service.refusal(service.composite(batch_size=fitting + 1, **RAW))
        assert refusal.code.name == "RESOURCE_EXHAUSTED"
        assert f"at most {fitting} raw frames" in refusal.message
        assert (refusal.pushback, refusal.fitting) == ("-1", str(fitting))
        assert not inference.calls
        assert len((await service.composite(batch_size=fitting, **RAW)).composited_frames) == fitting


async def test_jpegs_that_no_reply_holds_are_refused(serve: Any) -> None:
    async with serve("server.max_message_size_mb=1") as service:
        refusal = await service.refusal(service.composite(batch_size=50, jpeg_quality=100))
        assert refusal.code.name == "RESOURCE_EXHAUSTED"
        assert "lower quality" in refusal.message
        fitting = int(refusal.fitting)
        assert 1 < fitting < 50
        assert len((await service.composite(batch_size=fitting, jpeg_quality=100)).composited_frames) == fitting


async def test_a_large_request_that_is_being_checked_holds_up_nobody(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    checking, go_on = threading.Event(), threading.Event()

    def hold(sent: pb.CompositeBatchRequest, rules: RequestRules) -> CompositeOrder:
        if sent.batch_size == 2:
            checking.set()
            assert go_on.wait(PATIENCE_S), "the event loop waits"
        return read_order(sent, rules)

    monkeypatch.setattr("compositing_service.servicer.read_order", hold)
    large = asyncio.create_task(service.composite(batch_size=2, visual_frames=np.zeros(PICTURE, "<f4").tobytes(), **RAW))
    assert await asyncio.to_thread(checking.wait, PATIENCE_S)
    assert (await service.composite(batch_size=1)).success
    assert not large.done()
    go_on.set()
    assert mouth_colours(await large) == [(0, 0, 0), (0, 1, 0)]
