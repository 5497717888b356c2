"""Refusals to the earlier direct server's clients."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from ..conftest import SAMPLES_A_FRAME
from ..contract_client import ContractClient
from ..processes import running_all
from .conftest import FRAMES, refusal
from .sound import PIECE_BYTES

Code = grpc.StatusCode
NAN = np.full(SAMPLES_A_FRAME, np.nan, "<f4").tobytes()


@pytest.mark.parametrize(
    ("rpc", "fields", "code", "named"),
    [
        ("GenerateInference", {"model_name": "nobody"}, Code.NOT_FOUND, set()),
        ("GenerateInference", {"model_name": "broken"}, Code.FAILED_PRECONDITION, set()),
        ("GenerateInference", {"model_name": "silent"}, Code.FAILED_PRECONDITION, set()),
        ("GenerateInference", {"model_name": "heard", "frame_id": FRAMES}, Code.OUT_OF_RANGE, set()),
        ("GenerateInference", {"model_name": "..", "frame_id": -1}, Code.INVALID_ARGUMENT, {"model_name", "frame_id"}),
        ("GenerateBatchInference", {"model_name": "heard"}, Code.INVALID_ARGUMENT, {"frame_ids"}),
        ("GenerateBatchInference", {"model_name": "heard", "frame_ids": [0] * 501}, Code.INVALID_ARGUMENT, {"frame_ids"}),
        ("GenerateBatchInference", {"model_name": "heard", "frame_ids": [0, 99]}, Code.OUT_OF_RANGE, set()),
        (
            "GenerateBatchWithAudio",
            {"model_name": "", "start_frame_id": -1, "frame_count": 501, "audio_chunks": [b"abc"]},
            Code.INVALID_ARGUMENT,
            {"model_name", "start_frame_id", "frame_count", "audio_chunks"},
        ),
        (
            "GenerateBatchWithAudio",
            {"model_name": "heard", "frame_count": 2, "audio_chunks": [bytes(PIECE_BYTES)] * 16},
            Code.INVALID_ARGUMENT,
            {"audio_chunks"},
        ),
        (
            "GenerateBatchWithAudio",
            {"model_name": "heard", "frame_count": 1, "audio_chunks": [bytes(PIECE_BYTES)] * 15 + [NAN]},
            Code.INVALID_ARGUMENT,
            {"audio_chunks"},
        ),
        (
            "GenerateBatchWithAudio",
            {"model_name": "heard", "start_frame_id": 2**31 - 1, "frame_count": 1, "audio_chunks": [bytes(PIECE_BYTES)] * 16},
            Code.INVALID_ARGUMENT,
            {"start_frame_id"},
        ),
        (
            "GenerateBatchWithAudio",
            {"model_name": "nobody", "frame_count": 1, "audio_chunks": [bytes(PIECE_BYTES)] * 16},
            Code.NOT_FOUND,
            set(),
        ),
        ("LoadPackage", {"package_dir": "/etc/passwd"}, Code.NOT_FOUND, set()),
        ("LoadPackage", {"package_dir": "models/.."}, Code.INVALID_ARGUMENT, {"package_dir"}),
        ("LoadPackage", {}, Code.INVALID_ARGUMENT, {"package_name"}),
        ("LoadPackage", {"package_name": "broken"}, Code.FAILED_PRECONDITION, set()),
        ("GetStats", {"model_name": "nobody"}, Code.NOT_FOUND, set()),
        ("GetStats", {"model_name": "broken"}, Code.FAILED_PRECONDITION, set()),
        ("GetModelMetadata", {"model_name": "nobody"}, Code.NOT_FOUND, set()),
        ("GetVideoFrame", {"model_name": "heard", "frame_id": FRAMES, "video_type": "rois_320"}, Code.OUT_OF_RANGE, set()),
        (
            "GetVideoFrame",
            {"model_name": "a/b", "frame_id": -4, "video_type": "x"},
            Code.INVALID_ARGUMENT,
            {"model_name", "frame_id", "video_type"},
        ),
    ],
)
def test_direct_refusals(direct: ContractClient, rpc: str, fields: dict, code: Code, named: set) -> None:
    got, fields_named, text = refusal(lambda: direct(rpc, **fields))
    assert (got, fields_named) == (code, named)
    assert text


def test_the_direct_service_can_be_switched_off(root: Path, tmp_path: Path) -> None:
    with (
        running_all(f"models_root={root}", "server.optimized_lipsyncsrv=false", log=tmp_path / "log") as (_, inference, _),
        grpc.insecure_channel(inference.address) as channel,
    ):
        direct = ContractClient(channel, "optimized_lipsyncsrv.OptimizedLipSyncService")
        assert refusal(lambda: direct("HealthCheck"))[0] is Code.UNIMPLEMENTED
