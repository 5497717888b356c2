"""Requests of the client and its reading of the answers, over a real socket, for both faces alike."""

from __future__ import annotations

import inspect
import threading

import grpc
import numpy as np
import pytest

from lipsync_client import AsyncClient, Client, LipsyncError, Violation
from shared_proto import compositing_pb2 as pb

SOUND = np.linspace(-1, 1, 1280, dtype=np.float32)
EVERY_CALL = {
    "InferBatchComposite": lambda client: client.composite("demo", SOUND, batch_size=2),
    "ListModels": lambda client: client.list_avatars(),
    "LoadModel": lambda client: client.load("demo"),
    "UnloadModel": lambda client: client.unload("demo"),
    "GetModelStats": lambda client: client.stats(),
    "Health": lambda client: client.health(),
}


def test_a_batch_comes_back_typed(face, service):
    batch = face(service.target, lambda client: client.composite("demo", SOUND, batch_size=3, start_frame=5))
    assert batch.frames == [b"5", b"6", b"7"]
    assert batch.indices == [5, 6, 0]
    assert (batch.start_frame, batch.width, batch.height, batch.output, batch.gpu_id) == (5, 64, 48, "jpeg", -1)
    timings = batch.timings
    assert (timings.inference_ms, timings.composite_ms, timings.audio_ms, timings.total_ms) == (1.5, 2.5, 0.5, 4.0)
    assert (timings + timings).total_ms == 8.0


def test_every_option_reaches_the_wire(face, service):
    face(
        service.target,
        lambda client: client.composite(
            "demo",
            SOUND,
            batch_size=2,
            start_frame=7,
            sample_rate=48000,
            lead_in_frames=4,
            audio_start_frame=3,
            quality=88,
            output="raw",
        ),
    )
    [request] = service.requests
    assert request == pb.CompositeBatchRequest(
        model_id="demo",
        raw_audio=SOUND.tobytes(),
        batch_size=2,
        start_frame_idx=7,
        sample_rate=48000,
        lead_in_frames=4,
        audio_start_frame=3,
        jpeg_quality=88,
        output_format=pb.FORMAT_RAW_BGR,
    )


@pytest.mark.parametrize(
    ("sound", "data", "encoding"),
    [
        (np.array([0.5, -1], np.float32), np.array([0.5, -1], "<f4").tobytes(), pb.PCM_FLOAT32),
        (np.array([0.5, -1], np.float64), np.array([0.5, -1], "<f4").tobytes(), pb.PCM_FLOAT32),
        (np.array([0.5, -1], ">f4"), np.array([0.5, -1], "<f4").tobytes(), pb.PCM_FLOAT32),
        (np.array([[0.5, 9], [-1, 9]], np.float32)[:, 0], np.array([0.5, -1], "<f4").tobytes(), pb.PCM_FLOAT32),
        (np.array([300, -2], np.int16), b"\x2c\x01\xfe\xff", pb.PCM_INT16),
        (b"abcd1234", b"abcd1234", pb.PCM_FLOAT32),
        (memoryview(b"abcd"), b"abcd", pb.PCM_FLOAT32),
    ],
    ids=["float32", "float64", "big endian", "strided", "int16", "bytes", "memoryview"],
)
def test_kinds_of_sound(service, sound, data, encoding):
    with Client(service.target) as client:
        client.composite("demo", sound, batch_size=1)
    assert (service.requests[0].raw_audio, service.requests[0].audio_encoding) == (data, encoding)


@pytest.mark.parametrize(
    ("quality", "number", "preset"), [(None, 0, 0), (1, 1, 0), ("low", 0, 1), ("medium", 0, 2), ("high", 0, 3)]
)
def test_quality_is_a_number_or_a_preset(service, quality, number, preset):
    with Client(service.target) as client:
        client.composite("demo", SOUND, batch_size=1, quality=quality)
    assert (service.requests[0].jpeg_quality, service.requests[0].quality_preset) == (number, preset)


@pytest.mark.parametrize(
    ("sound", "options", "error"),
    [
        (np.zeros((2, 640), np.float32), {}, ValueError),
        (np.zeros(640, np.int32), {}, TypeError),
        (SOUND, {"quality": 0}, ValueError),
        (SOUND, {"quality": 101}, ValueError),
        (SOUND, {"quality": "best"}, ValueError),
        (SOUND, {"output": "png"}, ValueError),
        (SOUND, {"batch_size": 0}, ValueError),
        (SOUND, {"sample_rate": 0}, ValueError),
        (SOUND, {"in_flight": 0}, ValueError),
        (SOUND, {"no_such_option": 1}, TypeError),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_no_request_can_carry_is_refused_before_sending(face, service, sound, options, error):
    with pytest.raises(error):
        face(service.target, lambda client: client.batches("demo", sound, **options))
    assert service.requests == []


def test_model_calls_come_back_typed(face, service):
    good, torn = face(service.target, lambda client: client.list_avatars())
    assert (good.id, good.loaded, good.frame_count, good.width, good.height, good.fps) == ("demo", True, 200, 1280, 720, 25.0)
    assert (good.stats.usage_count, good.stats.memory_bytes, good.stats.total_inference_ms) == (3, 6, 5.5)
    assert (torn.id, torn.error) == ("torn", "frame 3 is missing")
    assert face(service.target, lambda client: client.load("demo", force_reload=True)).load_ms == 12.5
    assert face(service.target, lambda client: client.unload("demo")) is None
    stats = face(service.target, lambda client: client.stats("demo"))
    assert (stats.loaded_avatars, stats.max_avatars, stats.memory_bytes, stats.max_memory_bytes) == (1, 8, 100 << 20, 1 << 33)
    assert stats.avatars[0].id == "demo"
    health = face(service.target, lambda client: client.health())
    assert (health.healthy, health.inference_healthy, health.inference_url, health.version) == (True, False, "i:50051", "0.1.0")


@pytest.mark.parametrize("rpc", EVERY_CALL)
def test_every_call_has_a_deadline(face, service, rpc):
    face(service.target, EVERY_CALL[rpc], timeout=20.0, load_timeout=70.0)
    assert service.seconds_left[rpc] == pytest.approx(70 if rpc == "LoadModel" else 20, abs=5)


@pytest.mark.parametrize("rpc", EVERY_CALL)
def test_every_call_names_itself(face, service, rpc):
    face(service.target, EVERY_CALL[rpc])
    [metadata] = service.metadata
    assert len(metadata["x-request-id"]) == 32
    assert metadata.get("x-avatar-id") == ("demo" if rpc in {"InferBatchComposite", "LoadModel", "UnloadModel"} else None)


@pytest.mark.parametrize("avatar", ["x" * 10_000, "Müller", "a\nb"], ids=["10,000 characters", "umlaut", "line feed"])
def test_an_id_that_fits_no_header_still_reaches_the_server(face, service, avatar):
    face(service.target, lambda client: client.composite(avatar, SOUND, batch_size=1))
    assert service.requests[0].model_id == avatar
    assert "x-avatar-id" not in service.metadata[0]


def bad_request_details() -> bytes:
    """A google.rpc.Status with two field violations after a detail of another kind, packed as servers do."""
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status(code=3, message="two things")
    status.details.add().Pack(error_details_pb2.RetryInfo())
    violations = [("batch_size", "0; expected 1 to 50"), ("raw_audio", "3 bytes; expected a multiple of 4")]
    bad = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in violations]
    )
    status.details.add().Pack(bad)
    return status.SerializeToString()


def test_error_details_are_parsed(face, service):
    trailing = (("grpc-status-details-bin", bad_request_details()), ("x-request-id", "abc123"))
    service.fail(grpc.StatusCode.INVALID_ARGUMENT, "two things", trailing=trailing)
    with pytest.raises(LipsyncError) as caught:
        face(service.target, EVERY_CALL["InferBatchComposite"])
    error = caught.value
    assert (error.code, error.message, error.request_id) == (grpc.StatusCode.INVALID_ARGUMENT, "two things", "abc123")
    assert error.violations == (
        Violation("batch_size", "0; expected 1 to 50"),
        Violation("raw_audio", "3 bytes; expected a multiple of 4"),
    )
    assert str(error) == "INVALID_ARGUMENT: two things"


def test_an_error_names_the_request_that_was_sent(face, service):
    service.fail(grpc.StatusCode.NOT_FOUND, "no avatar x")
    with pytest.raises(LipsyncError) as caught:
        face(service.target, EVERY_CALL["InferBatchComposite"])
    assert caught.value.request_id == service.metadata[0]["x-request-id"]
    assert caught.value.violations == ()


def test_unreadable_details_do_not_hide_the_error(face, service):
    service.fail(grpc.StatusCode.INVALID_ARGUMENT, "bad", trailing=(("grpc-status-details-bin", b"\xff\xff\xff"),))
    with pytest.raises(LipsyncError, match="INVALID_ARGUMENT: bad"):
        face(service.target, EVERY_CALL["InferBatchComposite"])


@pytest.mark.parametrize(("sent", "seen"), [("250", 250), ("-1", None), ("soon", None)])
def test_when_to_come_back(service, sent, seen):
    service.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", trailing=(("grpc-retry-pushback-ms", sent),))
    with Client(service.target) as client, pytest.raises(LipsyncError) as caught:
        client.composite("demo", SOUND, batch_size=1)
    assert caught.value.retry_after_ms == seen


def test_failure_inside_an_ok_reply_is_an_error(face, service):
    with pytest.raises(LipsyncError, match="the disk is full"):
        face(service.target, lambda client: client.load("old-style"))
    with pytest.raises(LipsyncError, match="no such avatar"):
        face(service.target, lambda client: client.unload("gone"))
    service.script.append(lambda request, context: pb.CompositeBatchResponse(success=False))
    with pytest.raises(LipsyncError, match="without a reason"):
        face(service.target, EVERY_CALL["InferBatchComposite"])


def test_missing_frames_are_an_error(face, service):
    service.script.append(lambda request, context: pb.CompositeBatchResponse(success=True, composited_frames=[b"1"]))
    with pytest.raises(LipsyncError, match="1 frames, not 2"):
        face(service.target, EVERY_CALL["InferBatchComposite"])


def test_the_deadline_ends_a_call_that_hangs(face, service):
    release = threading.Event()

    def hang(request: pb.CompositeBatchRequest, context: grpc.ServicerContext) -> pb.CompositeBatchResponse:
        release.wait(30)
        return pb.CompositeBatchResponse()

    service.script.append(hang)
    try:
        with pytest.raises(LipsyncError) as caught:
            face(service.target, lambda client: client.composite("demo", SOUND, batch_size=1, timeout=0.2))
    finally:
        release.set()
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_no_server_is_unavailable(face):
    with pytest.raises(LipsyncError) as caught:
        face("127.0.0.1:1", EVERY_CALL["Health"])
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE


def test_each_client_has_its_own_connection(face, service):
    peers = []

    def reply(request, context):
        peers.append(context.peer())
        return service.answer(request)

    service.script.extend([reply] * 2)
    with Client(service.target) as first:
        first.composite("demo", SOUND, batch_size=1)
        face(service.target, lambda client: client.composite("demo", SOUND, batch_size=1))
    assert len(set(peers)) == 2


def test_both_faces_have_the_same_methods_and_arguments():
    public = {name for name in vars(Client) if not name.startswith("_")}
    assert public == {name for name in vars(AsyncClient) if not name.startswith("_")}
    for name in public:
        blocking, asynchronous = (inspect.signature(getattr(face, name)).parameters for face in (Client, AsyncClient))
        assert list(blocking.values()) == list(asynchronous.values()), name
