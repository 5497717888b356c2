"""Frames without speech, and the position to go on from, for both faces alike."""

from __future__ import annotations

import numpy as np
import pytest

from shared_proto import compositing_pb2 as pb

SOUND = np.zeros(1280, np.float32)


def test_idle_frames_are_asked_for_without_sound(face, service):
    batch = face(service.target, lambda client: client.idle("demo", 4, start_frame=7, quality="low", output="raw"))
    [request] = service.requests
    assert request == pb.CompositeBatchRequest(
        model_id="demo",
        batch_size=4,
        start_frame_idx=7,
        sample_rate=16000,
        quality_preset=pb.QUALITY_LOW,
        output_format=pb.FORMAT_RAW_BGR,
        idle=True,
    )
    assert batch.frames == [b"7", b"8", b"9", b"10"]
    assert service.metadata[0]["x-avatar-id"] == "demo"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"quality": 0}, ValueError),
        ({"output": "png"}, ValueError),
        ({"start_frame": 2**31}, ValueError),
        ({"sample_rate": 16000}, TypeError),
    ],
    ids=str,
)
def test_what_no_request_can_carry_is_refused_before_sending(face, service, options, error):
    with pytest.raises(error):
        face(service.target, lambda client: client.idle("demo", 2, **options))
    assert service.requests == []


def test_every_batch_says_where_to_go_on(face, service):
    spoken = face(service.target, lambda client: client.composite("demo", SOUND, batch_size=2, start_frame=3))
    idle = face(service.target, lambda client: client.idle("demo", 2, start_frame=3))
    assert (spoken.start_frame, spoken.next_start_frame) == (3, 75)
    assert idle.next_start_frame == 75


def test_a_position_of_zero_is_one(face, service):
    def answer(request, context):
        reply = service.answer(request)
        reply.next_start_frame_idx = 0
        return reply

    service.script.append(answer)
    assert face(service.target, lambda client: client.idle("demo", 2)).next_start_frame == 0


def test_servers_of_the_old_contract_follow_the_timeline(face, service):
    def answer(request, context):
        return pb.CompositeBatchResponse(success=True, composited_frames=[b"x"] * request.batch_size)

    service.script.append(answer)
    assert (
        face(service.target, lambda client: client.composite("demo", SOUND, batch_size=2, start_frame=9)).next_start_frame == 11
    )
