"""Replicas that name their numerics alike give the same bytes, and say so in every answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np

from shared_proto import inference_pb2 as pb
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from .avatars import slow_network, write_avatar
from .conftest import CALL_S, CHANNEL_OPTIONS
from .processes import TREE, running


def answers(models: Path, log: Path, *settings: str) -> tuple[pb.HealthResponse, pb.LoadModelResponse, list[pb.MouthRegion]]:
    """What one replica says of itself and of an avatar, and the mouths that it makes of a sound."""
    sound = np.random.default_rng(1).normal(0, 0.1, 6400).astype("<f4").tobytes()
    request = pb.InferBatchRequest(model_id="her", batch_size=5, raw_audio=sound, mouth_format=pb.UINT8_BGR)
    with (
        running("inference", f"models_root={models}", *settings, log=log) as service,
        grpc.insecure_channel(service.address, CHANNEL_OPTIONS) as channel,
    ):
        stub = InferenceServiceStub(channel)
        loaded = stub.LoadModel(pb.LoadModelRequest(model_id="her"), timeout=CALL_S)
        mouths = list(stub.InferStream(request, timeout=CALL_S))
        whole = stub.InferBatch(request, timeout=CALL_S)
        health = stub.Health(pb.HealthRequest(), timeout=CALL_S)
    assert {region.numerics for region in mouths} | {whole.numerics} == {loaded.numerics}
    assert b"".join(region.data for region in mouths) == b"".join(output.data for output in whole.outputs)
    return health, loaded, mouths


def test_replicas_with_equal_numerics_give_equal_bytes(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_avatar(models, "her", network=slow_network(layers=2))
    log = tmp_path / "log"
    one, other = answers(models, log), answers(models, log)
    exact = answers(models, log, "precision=float32")
    for health, loaded, _ in (one, other, exact):
        assert loaded.numerics.startswith(f"{health.numerics}/")
        assert loaded.HasField("psnr_db") == ("bfloat16" in loaded.numerics)
    assert one[1].numerics == other[1].numerics
    assert b"".join(region.data for region in one[2]) == b"".join(region.data for region in other[2])
    assert exact[0].numerics.startswith("onnxruntime-")
    assert (exact[1].numerics == one[1].numerics) == (exact[0].numerics == one[0].numerics)


def test_a_precision_that_cannot_be_had_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    command = [sys.executable, "-m", "lipsync_cli", "serve", "inference", "--set", f"models_root={tmp_path / 'models'}"]
    settings = ["--set", "engine=onnxruntime", "--set", "precision=bfloat16"]
    ended = subprocess.run([*command, *settings], cwd=TREE, check=False, capture_output=True, text=True, timeout=CALL_S)
    assert ended.returncode == 1
    assert "precision: bfloat16 needs engine: openvino or auto" in ended.stderr
