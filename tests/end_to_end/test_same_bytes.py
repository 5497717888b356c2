"""The same sound gives the same bytes, however it was cut, batched, sent, or shared with other callers."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar_kit.avatar import Avatar, Paste, load_avatar
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2

from . import reference
from .conftest import CALL_S, SAMPLES_A_FRAME, Duo

BATCH = 24
CLIP_FRAMES = 60
LEAD_IN = 10  # frames of sound before the first frame, and from the last frame's start, that make frames exact
LOOK_AHEAD = 12


def part(speech: np.ndarray, first: int, count: int, *, before: int = LEAD_IN, beyond: int = LOOK_AHEAD) -> dict[str, Any]:
    """Request fields for frames `first` .. of the clip, cut out of it with enough on both sides."""
    clip = speech[: CLIP_FRAMES * SAMPLES_A_FRAME]
    start = max(0, first - before)
    sound = clip[start * SAMPLES_A_FRAME : (first + count - 1 + beyond) * SAMPLES_A_FRAME]
    return {
        "raw_audio": sound.tobytes(),
        "batch_size": count,
        "lead_in_frames": first - start,
        "audio_start_frame": start,
        "start_frame_idx": first,
    }


def jpegs(duo: Duo, model_id: str = "small", **fields: Any) -> list[bytes]:
    request = pb.CompositeBatchRequest(model_id=model_id, **fields)
    return list(duo.pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames)


def mouth_request(request: dict[str, Any], **more: Any) -> inference_pb2.InferBatchRequest:
    fields = {name: value for name, value in request.items() if name != "start_frame_idx"}
    return inference_pb2.InferBatchRequest(**{"model_id": "small", **fields, **more})


@pytest.fixture(scope="module")
def whole(duo: Duo, speech: np.ndarray) -> list[bytes]:
    """All frames of the clip, from one request for each half of it."""
    clip = {"raw_audio": speech[: CLIP_FRAMES * SAMPLES_A_FRAME].tobytes()}
    half = CLIP_FRAMES // 2
    first = jpegs(duo, batch_size=half, **clip)
    return first + jpegs(duo, batch_size=half, lead_in_frames=half, start_frame_idx=half, **clip)


@pytest.fixture
def other_callers(duo: Duo, speech: np.ndarray) -> Iterator[None]:
    """Three of them, of the same avatar and of others, at the same time."""
    stop, calls = threading.Event(), threading.Semaphore(0)

    def ask(model_id: str, first: int) -> None:
        wanted: list[bytes] | None = None
        while not stop.is_set():
            got = jpegs(duo, model_id, **part(speech, first, 7))
            assert wanted in (None, got)
            wanted = got
            calls.release()

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, *each) for each in (("small", 3), ("forward", 20), ("feather", 1))]
        for _ in range(6):
            assert calls.acquire(timeout=CALL_S)
        try:
            yield
        finally:
            stop.set()
    for each in asking:
        each.result()


def test_a_batch_is_its_frames_one_by_one(duo: Duo, speech: np.ndarray, whole: list[bytes], other_callers: None) -> None:
    assert jpegs(duo, **part(speech, 13, BATCH)) == whole[13 : 13 + BATCH]
    single = [frame for first in range(13, 13 + BATCH) for frame in jpegs(duo, **part(speech, first, 1))]
    assert single == whole[13 : 13 + BATCH]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut(duo: Duo, speech: np.ndarray, whole: list[bytes], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, CLIP_FRAMES - 1))
    count = data.draw(st.integers(1, min(BATCH, CLIP_FRAMES - first)))
    before = data.draw(st.integers(LEAD_IN, 40))
    beyond = data.draw(st.integers(LOOK_AHEAD, 30))
    assert jpegs(duo, **part(speech, first, count, before=before, beyond=beyond)) == whole[first : first + count]


def test_too_little_around_it_is_seen(duo: Duo, speech: np.ndarray, whole: list[bytes]) -> None:
    """The judge of the other tests: cuts without context do give other frames."""
    assert jpegs(duo, **part(speech, 13, 1, before=0)) != whole[13:14]
    assert jpegs(duo, **part(speech, 13, 1, beyond=1)) != whole[13:14]
    assert jpegs(duo, **(part(speech, 13, 1) | {"audio_start_frame": 0})) != whole[13:14]


def test_the_drawn_person_cut_in_three(duo: Duo, demo: Avatar, speech: np.ndarray) -> None:
    together = jpegs(duo, "demo", **part(speech, 0, BATCH))
    cut = [frame for first, count in ((0, 5), (5, 1), (6, 18)) for frame in jpegs(duo, "demo", **part(speech, first, count))]
    assert cut == together


def test_16_bit_sound_is_the_float_sound_it_stands_for(duo: Duo, speech: np.ndarray) -> None:
    coarse = np.round(speech[:9600] * 32767).astype("<i2")
    as_float = (coarse.astype(np.float32) / 32768).astype("<f4")
    sent = jpegs(duo, raw_audio=coarse.tobytes(), audio_encoding=pb.PCM_INT16, batch_size=10)
    assert sent == jpegs(duo, raw_audio=as_float.tobytes(), batch_size=10)


@pytest.mark.parametrize("avatar_id", ["small", "demo"])
def test_float_regions_give_the_jpeg_bytes_of_pixel_regions(
    duo: Duo, demo: Avatar, models_root: Path, speech: np.ndarray, avatar_id: str
) -> None:
    avatar, request = load_avatar(models_root / avatar_id), part(speech, 0, 5)
    pictures = jpegs(duo, avatar_id, **request)
    floats = duo.mouths.InferBatch(mouth_request(request, model_id=avatar_id), timeout=CALL_S).outputs
    as_pixels = {"model_id": avatar_id, "mouth_format": inference_pb2.UINT8_BGR}
    pixels = duo.mouths.InferBatch(mouth_request(request, **as_pixels), timeout=CALL_S).outputs
    for index, (jpeg, floating, whole_numbers) in enumerate(zip(pictures, floats, pixels, strict=True)):
        assert len(floating.data) == 4 * len(whole_numbers.data) == 1_228_800
        truncated = reference.pixels(np.frombuffer(floating.data, "<f4").reshape(3, 320, 320))
        np.testing.assert_array_equal(truncated, np.frombuffer(whole_numbers.data, np.uint8).reshape(320, 320, 3))
        interval = reference.restart_interval_of(jpeg)
        whole = reference.encoded(reference.pasted(avatar, index, truncated), quality=75, restart_interval=interval)
        assert jpeg == whole


@pytest.mark.parametrize("mouth_format", [inference_pb2.FLOAT32_BGR, inference_pb2.UINT8_BGR])
def test_a_stream_is_the_batch(duo: Duo, speech: np.ndarray, mouth_format: int) -> None:
    request = mouth_request(part(speech, 5, BATCH), mouth_format=mouth_format, frame_indices=[k % 5 for k in range(BATCH)])
    batch = [output.data for output in duo.mouths.InferBatch(request, timeout=CALL_S).outputs]
    groups = list(duo.mouths.InferStream(request, timeout=CALL_S))
    assert [group.first_frame for group in groups] == [sum(g.frame_count for g in groups[:k]) for k in range(len(groups))]
    assert len(groups) > 1
    assert b"".join(group.data for group in groups) == b"".join(batch)
    assert len(batch) == BATCH


@pytest.mark.parametrize(
    ("avatar_id", "fit"),
    [
        ("small", inference_pb2.FIT_CROP),
        ("feather", inference_pb2.FIT_CROP),
        ("direct", inference_pb2.FIT_MOUTH),
        ("wide", inference_pb2.FIT_CROP),
    ],
)
def test_mouths_in_the_size_of_their_rectangles(
    duo: Duo, models_root: Path, speech: np.ndarray, avatar_id: str, fit: inference_pb2.MouthFit.ValueType
) -> None:
    """They are the rectangle's content in the pasted picture; where that has more pixels than the mouth, the mouth is sent."""
    avatar, indices = load_avatar(models_root / avatar_id), [k % 5 for k in range(BATCH)]
    as_pixels = {"model_id": avatar_id, "mouth_format": inference_pb2.UINT8_BGR, "frame_indices": indices}
    whole = duo.mouths.InferBatch(mouth_request(part(speech, 5, BATCH), **as_pixels), timeout=CALL_S).outputs
    request = mouth_request(part(speech, 5, BATCH), mouth_fit=fit, **as_pixels)
    expected = []
    for index, output in zip(indices, whole, strict=True):
        mouth, box = np.frombuffer(output.data, np.uint8).reshape(320, 320, 3), avatar.rects[index]
        if avatar_id != "wide":
            hard = dataclasses.replace(avatar, paste=Paste.DIRECT if avatar_id == "direct" else Paste.REFERENCE)
            mouth = reference.pasted(hard, index, mouth)[box.y1 : box.y2, box.x1 : box.x2]
        expected.append(mouth)
    batch = duo.mouths.InferBatch(request, timeout=CALL_S).outputs
    assert [(each.height, each.width) for each in batch] == [mouth.shape[:2] for mouth in expected]
    assert [each.data for each in batch] == [mouth.tobytes() for mouth in expected]
    groups = list(duo.mouths.InferStream(request, timeout=CALL_S))
    assert b"".join(group.data for group in groups) == b"".join(each.data for each in batch)
    assert [size for group in groups for size in group.widths] == [each.width for each in batch]
    assert [size for group in groups for size in group.heights] == [each.height for each in batch]


@pytest.mark.parametrize("first", [0, 17])
def test_encoded_rows_give_the_mouths_of_their_sound(duo: Duo, speech: np.ndarray, whole: list[bytes], first: int) -> None:
    rows = encoded_rows(duo, speech[: CLIP_FRAMES * SAMPLES_A_FRAME], first - 9, BATCH + 15)
    assert jpegs(duo, feature_rows=rows, batch_size=BATCH, start_frame_idx=first) == whole[first : first + BATCH]


def test_rows_encoded_piece_by_piece(duo: Duo, models_root: Path, speech: np.ndarray) -> None:
    clip = speech[: CLIP_FRAMES * SAMPLES_A_FRAME]
    together = encoded_rows(duo, clip, 10, 20)
    pieces = [encoded_rows(duo, clip[start * 640 : (start + 14) * 640], start + 1, 6, start) for start in (9, 15, 21)]
    assert b"".join(pieces)[: 18 * 2048] == together[: 18 * 2048]
    wanted = reference.rows(load_avatar(models_root / "small"), clip, 10, 20)
    np.testing.assert_allclose(np.frombuffer(together, "<f4").reshape(20, 512), wanted, atol=1e-5)


def encoded_rows(duo: Duo, sound: np.ndarray, first: int, count: int, start: int = 0) -> bytes:
    request = inference_pb2.EncodeAudioRequest(
        model_id="small", raw_audio=sound.tobytes(), first_row=first, row_count=count, audio_start_frame=start
    )
    reply = duo.mouths.EncodeAudio(request, timeout=CALL_S)
    assert (reply.first_row, reply.row_count) == (first, count)
    return reply.feature_rows


def test_frames_of_a_request_follow_its_indices(duo: Duo, speech: np.ndarray) -> None:
    def mouths(indices: Sequence[int]) -> list[bytes]:
        request = mouth_request(part(speech, 0, 4), frame_indices=indices)
        return [output.data for output in duo.mouths.InferBatch(request, timeout=CALL_S).outputs]

    assert mouths([0, 1, 2, 3]) == mouths([])
    assert mouths([4, 1, 2, 4])[1:3] == mouths([0, 1, 2, 3])[1:3]
    assert mouths([4, 1, 2, 4])[0] != mouths([0, 1, 2, 3])[0]
