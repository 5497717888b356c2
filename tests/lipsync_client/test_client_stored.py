"""Frames from an avatar's stored features: what both faces ask for, and what comes back."""

from __future__ import annotations

import grpc
import pytest

from lipsync_client import LipsyncError
from shared_proto import compositing_pb2 as pb


def test_one_request_carries_no_sound(face, service):
    batch = face(service.target, lambda client: client.stored("demo", 3, start_frame=8, quality=61, output="raw", timeout=7))
    assert batch.frames == [b"8", b"9", b"10"]
    assert batch.start_frame == 8
    [request] = service.requests
    assert request == pb.CompositeBatchRequest(
        model_id="demo",
        stored_features=True,
        batch_size=3,
        start_frame_idx=8,
        sample_rate=16_000,
        jpeg_quality=61,
        output_format=pb.FORMAT_RAW_BGR,
    )
    assert service.seconds_left["InferBatchComposite"] == pytest.approx(7, abs=2)


def test_many_frames_come_in_batches(face, service):
    batches = face(service.target, lambda client: client.stored_batches("demo", 60, start_frame=5, quality="low"))
    assert [(batch.start_frame, len(batch.frames)) for batch in batches][:3] == [(5, 4), (9, 8), (17, 8)]
    assert [frame for batch in batches for frame in batch.frames] == [str(position).encode() for position in range(5, 65)]
    assert all(request.stored_features and not request.raw_audio for request in service.requests)
    assert {request.quality_preset for request in service.requests} == {pb.QUALITY_LOW}
    assert len({metadata["x-session-id"] for metadata in service.metadata}) == 1


def test_no_frames_are_no_request(face, service):
    assert face(service.target, lambda client: client.stored_batches("demo", 0)) == []
    assert service.requests == []


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": 0}, {"quality": 101}, {"quality": "best"}, {"output": "png"}, {"in_flight": 0}],
    ids=str,
)
def test_bad_arguments_are_named_at_once(face, service, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        face(service.target, lambda client: client.stored_batches("demo", 5, **arguments))
    assert service.requests == []


def test_an_avatar_without_them_is_an_error_with_its_sentence(face, service):
    service.fail(grpc.StatusCode.FAILED_PRECONDITION, "this avatar has no stored features")
    with pytest.raises(LipsyncError, match="this avatar has no stored features") as caught:
        face(service.target, lambda client: client.stored("demo", 1))
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
