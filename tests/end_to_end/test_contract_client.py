"""A client that knows the wire contract and nothing of ours: as the earlier servers' clients, it must be served unchanged."""

from __future__ import annotations

import threading
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from google.protobuf import message_factory

from ..jpegs import decoded
from ..wire_contract import SESSIONS, pool_of
from .avatars import HEIGHT, WIDTH, background, rect
from .conftest import CALL_S, SAMPLES_A_FRAME, Duo
from .contract_client import ContractClient, network_input

FRAMES = 24
MOUTH_BYTES = 3 * 320 * 320 * 4
PICTURE_VALUES = 6 * 320 * 320
WINDOW_VALUES = 8192


@pytest.fixture(scope="module")
def compositing(duo: Duo) -> ContractClient:
    return ContractClient(duo.to_compositing, "compositing.CompositingService")


@pytest.fixture(scope="module")
def inference(duo: Duo) -> ContractClient:
    return ContractClient(duo.to_inference, "inference.InferenceService")


def planes(reply: Any) -> np.ndarray:
    return np.stack([np.frombuffer(output.data, "<f4").reshape(3, 320, 320) for output in reply.outputs])


def heard(window: np.ndarray) -> np.ndarray:
    """The blue and green planes of a mouth over a black picture: the window's values as tiles."""
    return np.clip(np.kron(window.reshape(2, 64, 64) * np.float32(0.125), np.ones((5, 5), np.float32)), 0, 1)


def seen(picture: np.ndarray) -> np.ndarray:
    """A silent mouth over a picture."""
    quarter, half = np.float32(0.25), np.float32(0.5)
    return np.stack([picture[0] * quarter, picture[1] * quarter, picture[2] * quarter + picture[5] * half])


def windows(count: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 6, (count, WINDOW_VALUES)).astype("<f4")


def test_pictures_from_sound_alone(compositing: ContractClient, speech: np.ndarray) -> None:
    sound = speech[: FRAMES * SAMPLES_A_FRAME]
    assert sound.dtype == np.float32
    reply = compositing("InferBatchComposite", model_id="small", raw_audio=sound.tobytes(), batch_size=FRAMES, start_frame_idx=3)
    assert reply.success
    assert reply.error == ""
    assert len(reply.composited_frames) == FRAMES
    assert reply.inference_time_ms > 0
    assert reply.composite_time_ms > 0
    assert reply.total_time_ms > 0
    mouths = []
    for jpeg, index in zip(reply.composited_frames, [3, 4, 3, 2, 1, 0, 1, 2] * 3, strict=True):
        picture, plain, box = decoded(jpeg), decoded(background(index)), rect(index)
        assert picture.shape == (HEIGHT, WIDTH, 3)
        mouths.append(picture[box.y1 : box.y2, box.x1 : box.x2].copy())
        changed = np.abs(picture.astype(int) - plain).max(2)
        assert changed[box.y1 : box.y2, box.x1 : box.x2].mean() > 5
        changed[box.y1 - 16 : box.y2 + 16, box.x1 - 16 : box.x2 + 16] = 0
        assert changed.mean() < 3  # the background is encoded twice, at qualities 93 and 75
    assert any(np.abs(a.astype(int)[:170, :170] - b[:170, :170]).mean() > 5 for a, b in zip(mouths, mouths[8:], strict=False))


def test_an_earlier_request_s_default_sample_rate_is_16_khz(compositing: ContractClient, speech: np.ndarray) -> None:
    request = {"model_id": "small", "raw_audio": speech[:6400].tobytes(), "batch_size": 10}
    said = compositing("InferBatchComposite", sample_rate=16_000, **request)
    assert list(said.composited_frames) == list(compositing("InferBatchComposite", **request).composited_frames)


def test_mouths_are_float32_planes(inference: ContractClient, speech: np.ndarray) -> None:
    sound = speech[: FRAMES * SAMPLES_A_FRAME].tobytes()
    reply = inference("InferBatch", model_id="small", raw_audio=sound, batch_size=FRAMES)
    assert reply.success
    assert [len(output.data) for output in reply.outputs] == [MOUTH_BYTES] * FRAMES == [1_228_800] * FRAMES
    mouths = planes(reply)
    assert mouths.min() >= 0
    assert mouths.max() <= 1
    for mouth, index in zip(mouths, [0, 1, 2, 3, 4, 3, 2, 1] * 3, strict=True):
        np.testing.assert_array_equal(mouth[2], seen(network_input(index))[2])  # this plane hears nothing


def test_one_window_for_the_whole_batch(inference: ContractClient) -> None:
    window = windows(1)
    black = np.zeros((1, PICTURE_VALUES), "<f4")
    reply = inference(
        "InferBatch", model_id="small", visual_frames=black.tobytes(), audio_features=window.tobytes(), batch_size=3
    )
    for mouth in planes(reply):
        np.testing.assert_array_equal(mouth[:2], heard(window[0]))
        assert not mouth[2].any()


def test_a_window_for_each_frame(inference: ContractClient) -> None:
    each = windows(3)
    black = np.zeros((3, PICTURE_VALUES), "<f4")
    reply = inference("InferBatch", model_id="small", visual_frames=black.tobytes(), audio_features=each.tobytes(), batch_size=3)
    for mouth, window in zip(planes(reply), each, strict=True):
        np.testing.assert_array_equal(mouth[:2], heard(window))


def test_pictures_of_the_client_s_own(inference: ContractClient) -> None:
    each = np.stack([network_input(index) for index in (4, 2, 0)])
    silence = np.zeros((1, WINDOW_VALUES), "<f4").tobytes()
    reply = inference("InferBatch", model_id="small", visual_frames=each.tobytes(), audio_features=silence, batch_size=3)
    for mouth, picture in zip(planes(reply), each, strict=True):
        np.testing.assert_array_equal(mouth, seen(picture))
    one = inference("InferBatch", model_id="small", visual_frames=each[:1].tobytes(), audio_features=silence, batch_size=2)
    for mouth in planes(one):
        np.testing.assert_array_equal(mouth, seen(each[0]))


@pytest.mark.parametrize("avatar", ["small", "static"])
def test_sending_the_avatar_s_own_pictures_changes_nothing(compositing: ContractClient, avatar: str) -> None:
    features = windows(5)
    own = np.stack([network_input(index) for index in (0, 1, 2, 3, 4)])
    sent = compositing(
        "InferBatchComposite", model_id=avatar, visual_frames=own.tobytes(), audio_features=features.tobytes(), batch_size=5
    )
    kept = compositing("InferBatchComposite", model_id=avatar, audio_features=features.tobytes(), batch_size=5)
    assert list(sent.composited_frames) == list(kept.composited_frames)


def test_sound_wins_over_features(compositing: ContractClient, speech: np.ndarray) -> None:
    sound = speech[3200:6400].tobytes()
    both = compositing(
        "InferBatchComposite", model_id="small", raw_audio=sound, audio_features=windows(1).tobytes(), batch_size=5
    )
    alone = compositing("InferBatchComposite", model_id="small", raw_audio=sound, batch_size=5)
    assert list(both.composited_frames) == list(alone.composited_frames)


@pytest.mark.parametrize("sent", [{"raw_audio": b""}, {"audio_features": b""}, {}])
def test_neither_sound_nor_features_is_an_error(compositing: ContractClient, inference: ContractClient, sent: dict) -> None:
    for client, rpc in ((compositing, "InferBatchComposite"), (inference, "InferBatch")):
        with pytest.raises(grpc.RpcError) as caught:
            client(rpc, model_id="small", batch_size=2, **sent)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_other_rpcs(compositing: ContractClient, inference: ContractClient) -> None:
    assert compositing("LoadModel", model_id="other").success
    listed = {model.model_id: model for model in compositing("ListModels").models}
    assert {"small", "other"} <= set(listed)
    assert listed["other"].loaded
    assert listed["other"].background_dir
    assert listed["other"].crop_rects_path
    there = {model.model_id: model for model in inference("ListModels").models}
    assert there["other"].loaded
    assert there["other"].gpu_id == -1
    health = compositing("Health")
    assert health.healthy
    assert health.inference_server_healthy
    assert health.version
    assert inference("Health").healthy
    assert not inference("Health").cuda_available
    for client in (compositing, inference):
        [model] = client("GetModelStats", model_id="other").models
        assert model.loaded
        assert model.stats.memory_bytes > 0
        assert client("GetModelStats").loaded_models >= 1
    assert compositing("UnloadModel", model_id="other").success
    assert not {model.model_id: model for model in inference("ListModels").models}["other"].loaded


def test_a_live_session(duo: Duo, demo: Any) -> None:
    """With classes made from the numbers of the session contract: sound in pieces, an interrupt, a switch, and the end."""
    pool = pool_of("compositing", SESSIONS)

    def made(name: str, **fields: Any) -> Any:
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"compositing.{name}"))(**fields)

    sound = np.random.default_rng(3).uniform(-0.3, 0.3, 640 * 12).astype("<f4").tobytes()

    def requests() -> Any:
        yield made("SessionRequest", config=made("SessionConfig", model_id="small", pacing=1, start_frame_idx=3))
        for first in range(0, len(sound), 4000):
            yield made("SessionRequest", audio=made("SessionAudio", data=sound[first : first + 4000]))
        yield made("SessionRequest", end_of_segment=made("EndOfSegment"))
        assert ended.wait(CALL_S)
        yield made("SessionRequest", interrupt=made("Interrupt"))
        yield made("SessionRequest", switch_avatar=made("SwitchAvatar", model_id="nobody"))
        yield made("SessionRequest", audio=made("SessionAudio", data=sound[:2560]))

    ended = threading.Event()
    call: Any = duo.to_compositing.stream_stream(
        "/compositing.CompositingService/StreamComposite",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(pool.FindMessageTypeByName("compositing.SessionEvent")).FromString,
    )
    events = []
    for event in call(requests(), timeout=CALL_S):
        events.append(event)
        if event.HasField("segment_ended"):
            ended.set()
    [field_of_first] = [field.name for field, _ in events[0].ListFields()]
    assert field_of_first == "started"
    assert events[0].started.fps == 25
    frames = [frame for event in events for frame in event.frames.frames]
    assert [(frame.number, frame.segment, frame.audio_us) for frame in frames] == [
        *((n, 0, 40_000 * n) for n in range(12)),
        (12, 1, 0),
    ]
    assert frames[0].position == 3
    assert frames[0].speech
    assert cv2.imdecode(np.frombuffer(frames[0].picture, np.uint8), cv2.IMREAD_COLOR).shape == (HEIGHT, WIDTH, 3)
    [interrupted] = [event.interrupted for event in events if event.HasField("interrupted")]
    assert (interrupted.segment, interrupted.next_number, interrupted.audio_us) == (0, 12, 480_000)
    assert [event.switch_failed.code for event in events if event.HasField("switch_failed")] in ([5], [])
    assert [event.segment_ended.frames for event in events if event.HasField("segment_ended")] == [12, 1]
