"""Clients of the earlier direct server that ask frame by frame in a stream."""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ..conftest import CALL_S
from ..contract_client import ContractClient
from ..processes import Service, running_all, until
from .conftest import FRAMES, refusal

Code = grpc.StatusCode


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


def test_a_stream_whose_client_goes_leaves_nothing(services: list[Service], channels: list[grpc.Channel]) -> None:
    direct = ContractClient(channels[1], "optimized_lipsyncsrv.OptimizedLipSyncService")
    talk = Talk(channels[1], direct)
    talk.send(*(("heard", frame_id % FRAMES) for frame_id in range(200)))
    next(talk.replies)
    until(lambda: services[0].metric("lipsync_running_calls") == 1)  # calls of other tests may be ending
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
