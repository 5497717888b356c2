"""Sessions that are refused: a wrong configuration, what may not come first or later, bytes that are no message."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from shared_proto import compositing_pb2 as pb

from ..violations import violations_of
from .conftest import CALL_S, Duo
from .talking import FAST, Talk, config, noise


def violations(error: grpc.RpcError) -> set[str]:
    return {field for field, _ in violations_of(error)}


@pytest.mark.parametrize(
    ("bad", "fields"),
    [
        ({"model_id": "../x"}, {"model_id"}),
        ({"start_frame_idx": -1, "sample_rate": 7999, "jpeg_quality": 101}, {"start_frame_idx", "sample_rate", "jpeg_quality"}),
        ({"jpeg_quality": 50, "quality_preset": 1}, {"jpeg_quality"}),
        (
            {"audio_encoding": 9, "pacing": 7, "idle": 8, "output_format": 6},
            {"audio_encoding", "pacing", "idle", "output_format"},
        ),
        ({"look_ahead_frames": 5, "cushion_ms": 2001}, {"look_ahead_frames", "cushion_ms"}),
        ({"look_ahead_frames": 13, "cushion_ms": -1}, {"look_ahead_frames", "cushion_ms"}),
        ({"resume": pb.SessionResume(next_number=-1, segment=-1)}, {"resume.next_number", "resume.segment"}),
        ({"resume": pb.SessionResume(first_frame=20, audio_start_frame=11)}, {"resume.audio_start_frame"}),
        ({"sample_rate": 48_000, "resume": pb.SessionResume(first_frame=20, audio_start_frame=9)}, {"resume.audio_start_frame"}),
    ],
)
def test_a_wrong_configuration_is_refused_with_every_problem(duo: Duo, bad: dict[str, Any], fields: set[str]) -> None:
    with Talk(duo.pictures, config(**bad)) as talk:
        error = talk.failure()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(error) == fields


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ({"audio": pb.SessionAudio(data=bytes(4))}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"interrupt": pb.Interrupt()}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"config": config(model_id="nobody")}, grpc.StatusCode.NOT_FOUND),
        ({"config": config(model_id="missing-frame")}, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_what_may_not_come_first_is_refused(duo: Duo, first: dict[str, Any], code: grpc.StatusCode) -> None:
    with Talk(duo.pictures, None) as talk:
        talk.send(**first)
        error = talk.failure()
    assert error.code() is code, error
    assert not talk.events


def test_no_configuration_is_refused(duo: Duo) -> None:
    with Talk(duo.pictures, None) as talk:
        talk.close()
        assert talk.failure().code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_without_content_is_only_a_sign_of_life(duo: Duo) -> None:
    with Talk(duo.pictures, None) as talk:
        talk.send()
        talk.send(config=config(pacing=FAST))
        talk.send()
        talk.send(audio=pb.SessionAudio())
        talk.send(end_of_segment=pb.EndOfSegment())
        talk.end()
    assert [event.WhichOneof("event") for event in talk.events] == ["started"]


@pytest.mark.parametrize(
    "bad",
    [
        {"config": config()},
        {"audio": pb.SessionAudio(data=b"abc")},
        {"audio": pb.SessionAudio(data=np.array([0, np.nan], "<f4").tobytes())},
        {"audio": pb.SessionAudio(data=np.array([np.inf], "<f4").tobytes())},
    ],
)
def test_what_may_not_come_later_ends_the_session_and_no_other(duo: Duo, bad: dict[str, Any]) -> None:
    with Talk(duo.pictures, config()) as other, Talk(duo.pictures, config()) as talk:
        talk.wait(lambda: talk.of("started"))
        talk.say(noise(1.0))
        talk.send(**bad)
        error = talk.failure()
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert violations(error)
        other.say(noise(0.2))
        other.end()
    assert len(other.speech) == 5


def test_bytes_that_are_no_message_are_refused(duo: Duo) -> None:
    method = duo.to_compositing.stream_stream("/compositing.CompositingService/StreamComposite")
    with pytest.raises(grpc.RpcError) as raised:
        list(method(iter([b"\xff\xff\xff"]), timeout=CALL_S))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
