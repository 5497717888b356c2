"""Services that run apart give the earlier clients the answers of all in one process, to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ..end_to_end.processes import running
from .contract import frame_reply, frame_request, short_request
from .gateway import Gateway
from .raw_socket import RawSocket

SOUND = (0.2 * np.sin(np.arange(16 * 640) / 20) * np.sin(np.arange(16 * 640) / 900)).astype("<f4").tobytes()
TIMES = {"processing_time_ms", "prepare_time_ms", "inference_time_ms", "composite_time_ms"}


@pytest.fixture(scope="module")
def apart(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawSocket]:
    """A socket of a gateway before a compositing service before an inference service."""
    log, models = tmp_path_factory.mktemp("apart"), f"models_root={root}"
    with (
        running("inference", models, log=log / "inference") as inference,
        running("compositing", models, f"inference_server.url={inference.address}", log=log / "compositing") as compositing,
        running("gateway", f"compositing_server.url={compositing.address}", log=log / "gateway") as gateway,
        RawSocket(gateway.address, "/ws") as socket,
    ):
        yield socket


@pytest.fixture(scope="module")
def together(gateway: Gateway) -> Iterator[RawSocket]:
    with gateway.connect("/ws") as socket:
        yield socket


@pytest.mark.parametrize(
    "request_",
    [
        {"type": "list_models"},
        {"type": "get_metadata", "model_name": "heard"},
        {"type": "get_metadata", "model_name": "nobody"},
        {"type": "get_video_frame", "model_name": "heard", "frame_id": 3, "video_type": "full_body"},
        {"type": "get_video_frame", "model_name": "heard", "frame_id": 3, "video_type": "model_inputs"},
        {"type": "get_video_frame", "model_name": "heard", "frame_id": 3, "video_type": "x-rays"},
        {"type": "inference", "model_name": "heard", "frame_id": 5},
        {"type": "inference", "model_name": "silent", "frame_id": 0},
        {"type": "inference", "model_name": "heard", "frame_id": 1000},
    ],
    ids=str,
)
def test_answers_are_the_same(apart: RawSocket, together: RawSocket, request_: dict[str, object]) -> None:
    answers = []
    for socket in (apart, together):
        socket.send(json.dumps(request_))
        answer = socket.receive()
        if isinstance(answer, str):
            answer = {key: value for key, value in json.loads(answer).items() if key not in TIMES}
        answers.append(answer)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("request_", [frame_request("heard", 7), frame_request("silent", 6, SOUND), short_request("heard", 2)])
def test_frames_are_the_same(apart: RawSocket, together: RawSocket, request_: bytes) -> None:
    replies = []
    for socket in (apart, together):
        socket.send(request_)
        reply = socket.receive()
        assert isinstance(reply, bytes)
        replies.append(reply if request_ == short_request("heard", 2) else frame_reply(reply)._replace(milliseconds=0))
    assert replies[0] == replies[1]
    assert replies[0]
