"""Networks that fail in a run, against a running service: they fail those who ask for it, and nobody else notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from shared_proto import inference_pb2 as pb
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from .avatars import picky_network, write_avatar
from .conftest import CALL_S, CHANNEL_OPTIONS
from .processes import Service, running

FRAMES = 6
NEIGHBOURS = 24
ROUNDS = 3


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """With an avatar whose network is picky, and one beside it."""
    write_avatar(tmp_path / "models", "picky", network=picky_network())
    write_avatar(tmp_path / "models", "small")
    with running("inference", f"models_root={tmp_path / 'models'}", "server.queue_size=1000", log=tmp_path / "log") as service:
        yield service


@pytest.fixture
def stub(service: Service) -> Iterator[InferenceServiceStub]:
    with grpc.insecure_channel(service.address, CHANNEL_OPTIONS) as channel:
        yield InferenceServiceStub(channel)


def request(seed: int, *, loudest: float = 6.0, model_id: str = "picky") -> pb.InferBatchRequest:
    """A batch with features of its own; the picky network fails when its `loudest` value is 8 or more."""
    features = np.random.default_rng(seed).uniform(0, 6, FRAMES * 8192).astype("<f4")
    features[::8192] = loudest
    return pb.InferBatchRequest(
        model_id=model_id, batch_size=FRAMES, audio_features=features.tobytes(), mouth_format=pb.UINT8_BGR
    )


def mouths(response: pb.InferBatchResponse) -> list[bytes]:
    return [region.data for region in response.outputs]


def test_a_run_that_fails_is_the_failing_callers_alone(service: Service, stub: InferenceServiceStub) -> None:
    quiet = [request(seed) for seed in range(NEIGHBOURS)]
    quiet += [request(seed, model_id="small") for seed in range(NEIGHBOURS // 4)]
    alone = [mouths(stub.InferBatch(each, timeout=CALL_S)) for each in quiet]
    for _ in range(ROUNDS):
        failing = [stub.InferBatch.future(request(1, loudest=100), timeout=CALL_S)]
        answers = [stub.InferBatch.future(each, timeout=CALL_S) for each in quiet[: NEIGHBOURS // 2]]
        failing.append(stub.InferBatch.future(request(2, loudest=100), timeout=CALL_S))
        answers += [stub.InferBatch.future(each, timeout=CALL_S) for each in quiet[NEIGHBOURS // 2 :]]
        assert [mouths(answer.result()) for answer in answers] == alone
        for failed in failing:
            assert failed.exception().code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "picky" in failed.exception().details()
    log = service.log.read_text()
    assert "Traceback" not in log
    assert "E:onnxruntime" not in log
