"""Clients of the earlier monolithic server."""

from __future__ import annotations

import time
from typing import Any

import grpc
import numpy as np
import pytest

from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from ..conftest import SAMPLES_A_FRAME
from ..contract_client import ContractClient, network_input
from .conftest import composited, refusal

Code = grpc.StatusCode


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
    assert set(listed) == {"broken", "changing", "heard", "silent", "wide"}
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
