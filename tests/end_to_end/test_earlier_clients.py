"""Clients of the earlier monolithic and direct servers, which know the wire contract and nothing of ours."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shared_proto import compositing_pb2, inference_pb2
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from .avatars import HEIGHT, WIDTH, background, rect, wide_rect, write_avatar
from .conftest import CALL_S, CHANNEL_OPTIONS, SAMPLES_A_FRAME
from .processes import Service, running_all, until
from .test_contract_client import ContractClient, decoded, network_input
from .test_stored_frames import rows, windows

Code = grpc.StatusCode
FRAMES = 21
PIECE_BYTES = SAMPLES_A_FRAME * 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avatar with the features of its clip, one without, one whose network is missing."""
    root = tmp_path_factory.mktemp("older")
    write_avatar(root, "heard", frames=FRAMES, features=rows())
    write_avatar(root, "silent")
    write_avatar(root, "wide", features=rows(5), rects=wide_rect)
    broken = write_avatar(root, "broken")
    broken.network_path.unlink()
    return root


@pytest.fixture(scope="module")
def services(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """Compositing, inference, monolithic: one process."""
    with running_all(f"models_root={root}", log=tmp_path_factory.mktemp("log") / "all") as services:
        yield services


@pytest.fixture(scope="module")
def channels(services: list[Service]) -> Iterator[list[grpc.Channel]]:
    channels = [grpc.insecure_channel(service.address, CHANNEL_OPTIONS) for service in services]
    yield channels
    for channel in channels:
        channel.close()


@pytest.fixture(scope="module")
def pictures(channels: list[grpc.Channel]) -> CompositingServiceStub:
    """What new clients call."""
    return CompositingServiceStub(channels[0])


@pytest.fixture(scope="module")
def monolithic(channels: list[grpc.Channel]) -> ContractClient:
    return ContractClient(channels[2], "monolithic.MonolithicService")


@pytest.fixture(scope="module")
def direct(channels: list[grpc.Channel]) -> ContractClient:
    return ContractClient(channels[1], "optimized_lipsyncsrv.OptimizedLipSyncService")


def composited(pictures: CompositingServiceStub, **fields: Any) -> list[bytes]:
    request = compositing_pb2.CompositeBatchRequest(**fields)
    return list(pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames)


def refusal(call: Callable[[], Any]) -> tuple[Code, set[str], str]:
    """The status, the fields that it names, and its text."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    fields: set[str] = set()
    for detail in status.details if status else ():
        problems = error_details_pb2.BadRequest()
        if detail.Unpack(problems):
            fields |= {each.field for each in problems.field_violations}
    return caught.value.code(), fields, caught.value.details() or ""


# -- monolithic.MonolithicService


def test_a_batch_has_the_frames_of_the_compositing_service(
    monolithic: ContractClient, pictures: CompositingServiceStub, speech: np.ndarray
) -> None:
    fields = {"model_id": "heard", "raw_audio": speech[: 24 * SAMPLES_A_FRAME].tobytes(), "batch_size": 24, "start_frame_idx": 5}
    reply = monolithic("InferBatchComposite", sample_rate=16_000, **fields)
    assert (reply.success, reply.error, reply.gpu_id) == (True, "", -1)
    assert reply.inference_time_ms > 0
    assert reply.composite_time_ms > 0
    assert reply.total_time_ms > 0
    assert list(reply.composited_frames) == composited(pictures, **fields)


def test_windows_and_the_client_s_own_pictures(monolithic: ContractClient, pictures: CompositingServiceStub) -> None:
    window = np.random.default_rng(1).uniform(0, 6, 8192).astype("<f4").tobytes()
    fields = {"model_id": "silent", "visual_frames": network_input(0).tobytes(), "audio_features": window, "batch_size": 3}
    assert list(monolithic("InferBatchComposite", **fields).composited_frames) == composited(pictures, **fields)


def test_the_monolithic_model_rpcs(monolithic: ContractClient, speech: np.ndarray) -> None:
    for preferred_gpu in (-1, 0, 3):  # there are no GPUs
        loaded = monolithic("LoadModel", model_id="heard", preferred_gpu=preferred_gpu)
        assert (loaded.success, loaded.error, loaded.gpu_id) == (True, "", -1)
        assert loaded.load_time_ms > 0

    def stats() -> Any:
        [found] = [model for model in monolithic("GetModelStats").models if model.model_id == "heard"]
        return found

    before = stats()
    monolithic("InferBatchComposite", model_id="heard", raw_audio=speech[:6400].tobytes(), batch_size=10)
    after = stats()
    assert after.loaded
    assert after.gpu_id == -1
    assert after.memory_mb >= 1
    assert after.request_count == before.request_count + 1
    assert after.total_inference_ms > before.total_inference_ms
    assert after.avg_inference_ms == pytest.approx(after.total_inference_ms / after.request_count, abs=1)
    assert abs(after.last_used_timestamp - time.time()) < 600
    listed = {model.model_id: model for model in monolithic("ListModels").models}
    assert set(listed) == {"broken", "heard", "silent", "wide"}
    assert listed["heard"].loaded
    assert listed["heard"].memory_mb == pytest.approx(after.memory_mb, abs=1)
    assert listed["heard"].request_count == after.request_count
    health = monolithic("Health")
    assert health.healthy
    assert health.loaded_models >= 1
    assert health.max_models == 40
    assert list(health.gpu_ids) == list(health.gpu_memory_used_gb) == []
    assert monolithic("UnloadModel", model_id="heard").success
    assert not {model.model_id: model for model in monolithic("ListModels").models}["heard"].loaded
    assert "heard" not in {model.model_id for model in monolithic("GetModelStats").models}


@pytest.mark.parametrize(
    ("rpc", "fields", "code", "named"),
    [
        ("LoadModel", {"model_id": "nobody", "preferred_gpu": -1}, Code.NOT_FOUND, set()),
        ("LoadModel", {"model_id": "broken", "preferred_gpu": -1}, Code.FAILED_PRECONDITION, set()),
        ("LoadModel", {"model_id": "../x", "preferred_gpu": -2}, Code.INVALID_ARGUMENT, {"model_id", "preferred_gpu"}),
        ("UnloadModel", {"model_id": "nobody"}, Code.NOT_FOUND, set()),
        ("UnloadModel", {"model_id": ""}, Code.INVALID_ARGUMENT, {"model_id"}),
        ("InferBatchComposite", {"model_id": "nobody", "raw_audio": bytes(2560), "batch_size": 1}, Code.NOT_FOUND, set()),
        ("InferBatchComposite", {"model_id": "silent", "raw_audio": b"abc"}, Code.INVALID_ARGUMENT, {"raw_audio", "batch_size"}),
    ],
)
def test_monolithic_refusals(monolithic: ContractClient, rpc: str, fields: dict, code: Code, named: set) -> None:
    got, fields_named, text = refusal(lambda: monolithic(rpc, **fields))
    assert (got, fields_named) == (code, named)
    assert text


# -- optimized_lipsyncsrv.OptimizedLipSyncService


def test_one_frame_says_what_its_clip_says_there(direct: ContractClient, pictures: CompositingServiceStub) -> None:
    for frame_id in (0, 7, 20):
        reply = direct("GenerateInference", model_name="heard", frame_id=frame_id)
        assert (reply.success, reply.error, reply.model_name, reply.frame_id) == (True, "", "heard", frame_id)
        window = windows(rows(), [frame_id]).astype("<f4").tobytes()
        [wanted] = composited(pictures, model_id="heard", audio_features=window, batch_size=1, start_frame_idx=frame_id)
        assert reply.prediction_data == wanted
        box = rect(frame_id)
        assert list(reply.bounds) == [box.x1, box.y1, box.x2, box.y2]
        assert reply.prediction_shape == "320x320x3"
        assert reply.inference_time_ms > 0
        assert reply.composite_time_ms > 0
        assert reply.prepare_time_ms >= 0
        assert list(reply.optimizations) == ["memory_mapped_features", "spliced_jpeg"]


def test_only_work_that_was_saved_is_claimed(direct: ContractClient) -> None:
    """A mouth that takes most of the picture is encoded with all of it."""
    reply = direct("GenerateInference", model_name="wide", frame_id=0)
    assert list(reply.optimizations) == ["memory_mapped_features"]


def test_a_batch_has_the_frames_in_its_order(direct: ContractClient) -> None:
    frame_ids = [3, 20, 3, 0, *range(FRAMES)] * 3  # more than one order holds
    reply = direct("GenerateBatchInference", model_name="heard", frame_ids=frame_ids)
    assert [each.frame_id for each in reply.responses] == frame_ids
    alone = {each: direct("GenerateInference", model_name="heard", frame_id=each).prediction_data for each in set(frame_ids)}
    assert [each.prediction_data for each in reply.responses] == [alone[each] for each in frame_ids]
    assert reply.total_processing_time_ms > 0
    assert reply.avg_frame_time_ms == pytest.approx(reply.total_processing_time_ms / len(frame_ids), abs=1)


def pieces(sound: np.ndarray, first: int, count: int) -> list[bytes]:
    """40 ms each, from 8 before frame `first` of the sound to 7 after the last one."""
    part = sound[(first - 8) * SAMPLES_A_FRAME : (first + count + 7) * SAMPLES_A_FRAME]
    return [piece.tobytes() for piece in part.reshape(-1, SAMPLES_A_FRAME)]


def test_sound_in_pieces(
    direct: ContractClient, channels: list[grpc.Channel], pictures: CompositingServiceStub, speech: np.ndarray
) -> None:
    """Rows that the pieces do not hold are those next to them; the others are those of the whole sound."""
    first, count = 22, 57
    reply = direct(
        "GenerateBatchWithAudio",
        model_name="heard",
        start_frame_id=first,
        frame_count=count,
        audio_chunks=pieces(speech, first, count),
    )
    assert [each.frame_id for each in reply.responses] == list(range(first, first + count))
    assert {tuple(each.optimizations) for each in reply.responses} == {("spliced_jpeg",)}
    encoding = inference_pb2.EncodeAudioRequest(
        model_id="heard", raw_audio=speech.tobytes(), first_row=first - 9, row_count=count + 15
    )
    encoded = InferenceServiceStub(channels[1]).EncodeAudio(encoding, timeout=CALL_S)
    whole = np.frombuffer(encoded.feature_rows, "<f4").reshape(-1, 512)
    heard = np.concatenate([whole[[2, 2]], whole[2:-4], np.repeat(whole[-5:-4], 4, axis=0)])
    assert heard.shape == whole.shape
    wanted = []
    for start in range(0, count, 50):
        size = min(50, count - start)
        fields = {"feature_rows": heard[start : start + size + 15].tobytes(), "start_frame_idx": first + start}
        wanted += composited(pictures, model_id="heard", batch_size=size, **fields)
    assert [each.prediction_data for each in reply.responses] == wanted


def test_frames_of_sound_are_the_same_however_it_is_cut(direct: ContractClient, speech: np.ndarray) -> None:
    """But for those near the ends of a batch, whose rows reach beyond the pieces."""

    def frames(first: int, count: int) -> list[bytes]:
        fields = {"start_frame_id": first, "frame_count": count, "audio_chunks": pieces(speech, first, count)}
        return [each.prediction_data for each in direct("GenerateBatchWithAudio", model_name="heard", **fields).responses]

    whole = frames(10, 60)
    for first in (14, 33):
        assert frames(first, 20)[2:-5] == whole[first - 10 :][2:15]


class Talk:
    """A stream of requests that go out one by one."""

    def __init__(self, channel: grpc.Channel, client: ContractClient) -> None:
        request, reply = (client._message_class(name) for name in ("OptimizedInferenceRequest", "OptimizedInferenceResponse"))
        self._request = request
        self._outgoing: queue.Queue[Any] = queue.Queue()
        call = channel.stream_stream(
            "/optimized_lipsyncsrv.OptimizedLipSyncService/StreamInference",
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        self.replies = call(iter(self._outgoing.get, None), timeout=CALL_S)

    def send(self, *requests: tuple[str, int] | bytes) -> None:
        for each in requests:
            message = each if isinstance(each, bytes) else self._request(model_name=each[0], frame_id=each[1])
            self._outgoing.put(message)

    def end(self) -> None:
        self._outgoing.put(None)


@pytest.fixture
def talk(channels: list[grpc.Channel], direct: ContractClient) -> Iterator[Talk]:
    talk = Talk(channels[1], direct)
    yield talk
    talk.end()
    talk.replies.cancel()


def test_a_stream_answers_each_request_before_the_next_is_sent(direct: ContractClient, talk: Talk) -> None:
    for frame_id in (4, 11, 4):
        talk.send(("heard", frame_id))
        reply = next(talk.replies)
        assert reply.frame_id == frame_id
        assert reply.prediction_data == direct("GenerateInference", model_name="heard", frame_id=frame_id).prediction_data


def test_a_stream_keeps_the_order_of_many_requests(talk: Talk) -> None:
    frame_ids = [*range(FRAMES)] * 3
    talk.send(*(("heard", frame_id) for frame_id in frame_ids))
    talk.end()
    assert [reply.frame_id for reply in talk.replies] == frame_ids


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (("nobody", 0), Code.NOT_FOUND),
        (("heard", FRAMES), Code.OUT_OF_RANGE),
        (("heard", -1), Code.INVALID_ARGUMENT),
        (b"\xff\xff", Code.INVALID_ARGUMENT),
    ],
)
def test_a_stream_ends_with_the_status_of_a_bad_request_after_the_frames_before_it(talk: Talk, bad: Any, code: Code) -> None:
    talk.send(("heard", 1), ("heard", 2), bad, ("heard", 3))
    assert [next(talk.replies).frame_id for _ in range(2)] == [1, 2]
    assert refusal(lambda: next(talk.replies))[0] is code


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


NAN = np.full(SAMPLES_A_FRAME, np.nan, "<f4").tobytes()


@pytest.mark.parametrize(
    ("rpc", "fields", "code", "named"),
    [
        ("GenerateInference", {"model_name": "nobody"}, Code.NOT_FOUND, set()),
        ("GenerateInference", {"model_name": "broken"}, Code.FAILED_PRECONDITION, set()),
        ("GenerateInference", {"model_name": "silent"}, Code.FAILED_PRECONDITION, set()),
        ("GenerateInference", {"model_name": "heard", "frame_id": FRAMES}, Code.OUT_OF_RANGE, set()),
        ("GenerateInference", {"model_name": "..", "frame_id": -1}, Code.INVALID_ARGUMENT, {"model_name", "frame_id"}),
        ("GenerateBatchInference", {"model_name": "heard"}, Code.INVALID_ARGUMENT, {"frame_ids"}),
        ("GenerateBatchInference", {"model_name": "heard", "frame_ids": [0] * 501}, Code.INVALID_ARGUMENT, {"frame_ids"}),
        ("GenerateBatchInference", {"model_name": "heard", "frame_ids": [0, 99]}, Code.OUT_OF_RANGE, set()),
        (
            "GenerateBatchWithAudio",
            {"model_name": "", "start_frame_id": -1, "frame_count": 501, "audio_chunks": [b"abc"]},
            Code.INVALID_ARGUMENT,
            {"model_name", "start_frame_id", "frame_count", "audio_chunks"},
        ),
        (
            "GenerateBatchWithAudio",
            {"model_name": "heard", "frame_count": 2, "audio_chunks": [bytes(PIECE_BYTES)] * 16},
            Code.INVALID_ARGUMENT,
            {"audio_chunks"},
        ),
        (
            "GenerateBatchWithAudio",
            {"model_name": "heard", "frame_count": 1, "audio_chunks": [bytes(PIECE_BYTES)] * 15 + [NAN]},
            Code.INVALID_ARGUMENT,
            {"audio_chunks"},
        ),
        (
            "GenerateBatchWithAudio",
            {"model_name": "heard", "start_frame_id": 2**31 - 1, "frame_count": 1, "audio_chunks": [bytes(PIECE_BYTES)] * 16},
            Code.INVALID_ARGUMENT,
            {"start_frame_id"},
        ),
        (
            "GenerateBatchWithAudio",
            {"model_name": "nobody", "frame_count": 1, "audio_chunks": [bytes(PIECE_BYTES)] * 16},
            Code.NOT_FOUND,
            set(),
        ),
        ("LoadPackage", {"package_dir": "/etc/passwd"}, Code.NOT_FOUND, set()),
        ("LoadPackage", {"package_dir": "models/.."}, Code.INVALID_ARGUMENT, {"package_dir"}),
        ("LoadPackage", {}, Code.INVALID_ARGUMENT, {"package_name"}),
        ("LoadPackage", {"package_name": "broken"}, Code.FAILED_PRECONDITION, set()),
        ("GetStats", {"model_name": "nobody"}, Code.NOT_FOUND, set()),
        ("GetStats", {"model_name": "broken"}, Code.FAILED_PRECONDITION, set()),
        ("GetModelMetadata", {"model_name": "nobody"}, Code.NOT_FOUND, set()),
        ("GetVideoFrame", {"model_name": "heard", "frame_id": FRAMES, "video_type": "rois_320"}, Code.OUT_OF_RANGE, set()),
        (
            "GetVideoFrame",
            {"model_name": "a/b", "frame_id": -4, "video_type": "x"},
            Code.INVALID_ARGUMENT,
            {"model_name", "frame_id", "video_type"},
        ),
    ],
)
def test_direct_refusals(direct: ContractClient, rpc: str, fields: dict, code: Code, named: set) -> None:
    got, fields_named, text = refusal(lambda: direct(rpc, **fields))
    assert (got, fields_named) == (code, named)
    assert text


def test_five_hundred_frames_of_sound(direct: ContractClient) -> None:
    sound = np.random.default_rng(8).normal(0, 0.1, 515 * SAMPLES_A_FRAME).astype("<f4")
    reply = direct("GenerateBatchWithAudio", model_name="heard", frame_count=500, audio_chunks=pieces(sound, 8, 500))
    assert [each.frame_id for each in reply.responses] == list(range(500))
    assert all(each.prediction_data.startswith(b"\xff\xd8") for each in reply.responses)


def test_an_avatar_that_was_replaced_is_served_anew(direct: ContractClient, root: Path) -> None:
    """Its old pictures are gone, and only one of them is in memory."""
    write_avatar(root, "changing", features=rows(5))
    direct("GenerateInference", model_name="changing", frame_id=0)
    write_avatar(root, "changing", features=rows(5), seed=70, replace=True)
    assert direct("GetVideoFrame", model_name="heard", frame_id=3, video_type="full_body").success
    reply = direct("GenerateInference", model_name="changing", frame_id=3)
    shown, wanted = decoded(reply.prediction_data), decoded(background(73))
    assert np.abs(shown[:, :60].astype(int) - wanted[:, :60]).mean() < 4
    write_avatar(root, "changing", features=rows(5), seed=90, replace=True)
    reply = direct("GetVideoFrame", model_name="changing", frame_id=2, video_type="full_body")
    assert np.abs(decoded(reply.frame_data).astype(int) - decoded(background(92))).mean() < 4


def test_a_stream_whose_client_goes_leaves_nothing(services: list[Service], channels: list[grpc.Channel]) -> None:
    direct = ContractClient(channels[1], "optimized_lipsyncsrv.OptimizedLipSyncService")
    talk = Talk(channels[1], direct)
    talk.send(*(("heard", frame_id % FRAMES) for frame_id in range(200)))
    next(talk.replies)
    assert services[0].metric("lipsync_running_calls") == 1
    talk.replies.cancel()
    until(lambda: services[0].metric("lipsync_running_calls") == services[0].metric("lipsync_inference_requests") == 0)
    talk.end()


def test_a_stream_does_not_hold_up_the_end(root: Path, tmp_path: Path) -> None:
    with (
        running_all(f"models_root={root}", log=tmp_path / "log") as (_, inference, _),
        grpc.insecure_channel(inference.address) as channel,
    ):
        talk = Talk(channel, ContractClient(channel, "optimized_lipsyncsrv.OptimizedLipSyncService"))
        talk.send(("heard", 1))
        assert next(talk.replies).frame_id == 1
        inference.signal(signal.SIGTERM)
        assert refusal(lambda: next(talk.replies))[0] is Code.UNAVAILABLE
        talk.end()
        assert inference.process.wait(CALL_S) == 0
    assert "cut off" not in (tmp_path / "log").read_text()


def test_the_direct_service_can_be_switched_off(root: Path, tmp_path: Path) -> None:
    with (
        running_all(f"models_root={root}", "server.optimized_lipsyncsrv=false", log=tmp_path / "log") as (_, inference, _),
        grpc.insecure_channel(inference.address) as channel,
    ):
        direct = ContractClient(channel, "optimized_lipsyncsrv.OptimizedLipSyncService")
        assert refusal(lambda: direct("HealthCheck"))[0] is Code.UNIMPLEMENTED
