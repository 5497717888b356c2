"""A clip asks for as much at a time as the server can make: prompt, late, refused, too large, past its deadline."""

from __future__ import annotations

import threading
import time

import grpc
import numpy as np
import pytest

from lipsync_client import LipsyncError
from lipsync_client.pacing import Pace
from shared_proto import compositing_pb2 as pb

CLIP = np.zeros(640 * 60, np.float32)
WHOLE = [str(position).encode() for position in range(60)]
PROMPT, NEITHER, LATE = 0.1, 3.0, 6.0


def sizes(service) -> list[int]:
    return [request.batch_size for request in service.requests]


@pytest.mark.parametrize(
    ("replies", "wanted"),
    [
        ([], (4, 1)),
        ([PROMPT], (8, 2)),
        ([PROMPT] * 2, (16, 3)),
        ([PROMPT] * 3, (24, 4)),
        ([PROMPT] * 9, (24, 4)),
        ([NEITHER] * 9, (4, 1)),
        ([PROMPT, PROMPT, NEITHER], (16, 3)),
        ([PROMPT] * 3 + [LATE], (12, 2)),
        ([PROMPT] * 3 + [LATE] * 2, (6, 1)),
        ([LATE] * 9, (1, 1)),
        ([LATE] * 2 + [PROMPT] * 2, (4, 3)),
    ],
    ids=str,
)
def test_what_is_asked_for_follows_the_time_of_replies(replies, wanted):
    pace = Pace(batch_size=24, in_flight=4, timeout_s=30, max_reply_bytes=1 << 20)
    for seconds in replies:
        pace.replied(step=pace.step, seconds=seconds, largest_frame_bytes=1)
    assert (pace.frames, pace.requests) == wanted


def test_one_step_a_round_trip():
    """Replies to what was sent before a step say nothing about it."""
    pace = Pace(batch_size=24, in_flight=4, timeout_s=30, max_reply_bytes=1 << 20)
    for _ in range(9):
        pace.replied(step=0, seconds=PROMPT, largest_frame_bytes=1)
    assert (pace.frames, pace.requests) == (8, 2)


@pytest.mark.parametrize(
    ("timeout_s", "seconds", "wanted"), [(5, 0.4, 8), (5, 0.6, 4), (5, 1.3, 2), (3600, 2.5, 4), (3600, 6, 2)]
)
def test_prompt_and_late_depend_on_the_deadline_and_have_bounds(timeout_s, seconds, wanted):
    pace = Pace(batch_size=24, in_flight=4, timeout_s=timeout_s, max_reply_bytes=1 << 20)
    pace.replied(step=0, seconds=seconds, largest_frame_bytes=1)
    assert pace.frames == wanted


def test_a_slow_server_gets_one_small_request_at_a_time(face, service):
    """Each reply takes more than a tenth of the deadline."""
    inside, most = 0, 0

    def slow(request, context):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.25)
        inside -= 1
        return service.answer(request)

    service.script.extend([slow] * 60)
    frames = face(service.target, lambda client: client.frames("demo", CLIP[: 640 * 20], timeout=2.0))
    assert frames == WHOLE[:20]
    assert most == 1
    assert max(sizes(service)) == 4


class Refusing:
    """Refuses `times` times with such trailing metadata, then answers; notes when it was asked."""

    def __init__(self, service, times: int, trailing) -> None:
        self.times = times
        self.asked: list[float] = []
        self._service, self._trailing = service, trailing

    def __call__(self, request, context):
        self.asked.append(time.monotonic())
        if len(self.asked) <= self.times:
            context.set_trailing_metadata(self._trailing)
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        return self._service.answer(request)


def retry_info(seconds: float) -> bytes:
    from google.rpc import error_details_pb2, status_pb2

    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(round(seconds * 1000))
    status = status_pb2.Status(code=8, message="the queue is full")
    status.details.add().Pack(info)
    return status.SerializeToString()


@pytest.mark.parametrize(
    "trailing",
    [(("grpc-retry-pushback-ms", "120"),), (("grpc-status-details-bin", retry_info(0.12)),)],
    ids=["pushback", "RetryInfo"],
)
def test_a_refusal_that_says_when_to_come_back_is_obeyed(face, service, trailing):
    refusing = Refusing(service, 3, trailing)
    service.script.extend([refusing] * 4)
    assert face(service.target, lambda client: client.frames("demo", CLIP)) == WHOLE
    assert len(refusing.asked) == 4
    assert np.diff(refusing.asked).min() >= 0.12
    assert sizes(service)[:4] == [4] * 4, "the same again, until it is taken"


def test_a_server_that_refuses_for_longer_than_ten_deadlines_ends_the_clip(face, service):
    """Three short waits, and one that would take their sum beyond 300 s."""
    for wait_ms in (20, 20, 20, 299_990):
        service.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", trailing=(("grpc-retry-pushback-ms", str(wait_ms)),))
    with pytest.raises(LipsyncError, match="full") as caught:
        face(service.target, lambda client: client.frames("demo", CLIP, timeout=30))
    assert caught.value.retry_after_ms == 299_990
    assert len(service.requests) == 4


def holding(service, frames: int, trailing=()):
    """A reply that refuses more frames than that."""

    def reply(request, context):
        if request.batch_size > frames:
            context.set_trailing_metadata(trailing)
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "more than a reply holds")
        return service.answer(request)

    return reply


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("fitting", [1, 3, 11])
def test_a_reply_that_would_be_too_large_is_asked_for_in_parts(face, service, fitting, told):
    trailing = (("grpc-retry-pushback-ms", "-1"), *((("x-fitting-batch-size", str(fitting)),) if told else ()))
    service.script.extend([holding(service, fitting, trailing)] * 200)
    assert face(service.target, lambda client: client.frames("demo", CLIP)) == WHOLE
    if told:
        refused = [size for size in sizes(service) if size > fitting]
        assert len(set(refused)) == 1, "no larger one after the first that was refused"
        assert fitting in sizes(service)


def test_one_frame_that_no_reply_holds_ends_the_clip(face, service):
    service.script.extend([holding(service, 0)] * 200)
    with pytest.raises(LipsyncError, match="more than a reply holds"):
        face(service.target, lambda client: client.frames("demo", CLIP))
    assert sizes(service) == [4, 2, 1]


def of_size(frame_bytes: int):
    """A reply with frames of so many bytes."""

    def reply(request, _):
        frames = [bytes(frame_bytes)] * request.batch_size
        return pb.CompositeBatchResponse(success=True, composited_frames=frames, frame_indices=range(request.batch_size))

    return reply


def test_replies_are_kept_below_the_largest_message(face, service):
    """100,000 bytes a frame: nine of them leave a tenth of a MiB for larger ones."""
    service.script.extend([of_size(100_000)] * 60)
    frames = face(service.target, lambda client: client.frames("demo", CLIP), max_message_mb=1)
    assert len(frames) == 60
    assert max(sizes(service)) == 9
    assert sum(sizes(service)) == 60, "nothing was asked for twice"


def test_a_first_reply_too_large_to_be_received_is_asked_for_in_parts(face, service):
    service.script.extend([of_size(400_000)] * 90)
    frames = face(service.target, lambda client: client.frames("demo", CLIP), max_message_mb=1)
    assert len(frames) == 60
    assert sizes(service)[0] == 4
    assert max(sizes(service)[1:]) == 2


class Overwhelmed:
    """Never answers what asks for more than one frame."""

    def __init__(self, service) -> None:
        self._service = service

    def __call__(self, request, context):
        if request.batch_size > 1:
            gone = threading.Event()
            if context.add_callback(gone.set):
                gone.wait(30)
        return self._service.answer(request)


def test_a_passed_deadline_is_asked_for_again_frame_by_frame(face, service):
    service.script.extend([Overwhelmed(service)] * 60)
    frames = face(service.target, lambda client: client.frames("demo", CLIP[: 640 * 5], timeout=2))
    assert frames == WHOLE[:5]
    assert sizes(service)[:2] == [4, 1]


def test_a_server_that_makes_not_one_frame_in_time_ends_the_clip(face, service):
    def hang(request, context):
        gone = threading.Event()
        if context.add_callback(gone.set):
            gone.wait(30)
        return service.answer(request)

    service.script.extend([hang] * 10)
    with pytest.raises(LipsyncError) as caught:
        face(service.target, lambda client: client.frames("demo", CLIP, timeout=1))
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert sizes(service) == [4, 1]


def test_given_ids_and_metadata_are_carried_by_every_call(face, service):
    def clip(client):
        mine = client.with_metadata(request_id="r-7", session_id="s-1", more=(("authorization", "Bearer x"),))
        return mine.frames("demo", CLIP, batch_size=4)

    assert face(service.target, clip) == WHOLE
    assert {metadata["x-session-id"] for metadata in service.metadata} == {"s-1"}
    assert {metadata["authorization"] for metadata in service.metadata} == {"Bearer x"}
    assert sorted(metadata["x-request-id"] for metadata in service.metadata) == sorted(f"r-7/{k}" for k in range(0, 60, 4))


def test_a_single_call_carries_the_given_request_id(face, service):
    face(service.target, lambda client: client.with_metadata(request_id="r-7").composite("demo", CLIP, batch_size=1))
    face(service.target, lambda client: client.with_metadata(session_id="s-1").health())
    one, other = service.metadata
    assert (one["x-request-id"], one.get("x-session-id")) == ("r-7", None)
    assert (len(other["x-request-id"]), other["x-session-id"]) == (32, "s-1")
