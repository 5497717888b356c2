"""A service under `taskset` keeps all of its threads on the cores that it was given."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from shared_proto import inference_pb2 as pb
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from .avatars import picky_network, slow_network, write_avatar
from .conftest import CALL_S, CHANNEL_OPTIONS
from .processes import running


@pytest.fixture
def core() -> int:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("there is only one core")
    return cores[0]  # threads that a library ties to cores by itself are tied to the next ones


def test_no_thread_leaves_the_mask_and_onnx_runtime_says_nothing(tmp_path: Path, core: int) -> None:
    models = tmp_path / "models"
    write_avatar(models, "convolving", network=slow_network(layers=2))
    write_avatar(models, "picky", network=picky_network())
    log = tmp_path / "log"
    with (
        running("inference", f"models_root={models}", log=log, before=("taskset", "-c", str(core))) as service,
        grpc.insecure_channel(service.address, CHANNEL_OPTIONS) as channel,
    ):
        stub = InferenceServiceStub(channel)
        request = pb.InferBatchRequest(model_id="convolving", batch_size=2, raw_audio=bytes(4 * 1280))
        assert len(stub.InferBatch(request, timeout=CALL_S).outputs) == 2
        loud = pb.InferBatchRequest(model_id="picky", batch_size=1, audio_features=b"\x00\x00\xc8B" * 8192)
        with pytest.raises(grpc.RpcError, match="FAILED_PRECONDITION"):
            stub.InferBatch(loud, timeout=CALL_S)
        threads = [int(name) for name in os.listdir(f"/proc/{service.process.pid}/task")]
        assert len(threads) > 4
        assert {frozenset(os.sched_getaffinity(thread)) for thread in threads} == {frozenset({core})}
    for line in log.read_text().splitlines():
        assert line.split()[1] in {"INFO", "WARNING"}, line
