"""`lipsync serve all` is to callers what the two services are."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import urllib.error
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lipsync_client import Client
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from ..wire_contract import SERVICES
from .avatars import slow_network, write_avatar
from .conftest import CALL_S, CHANNEL_OPTIONS, SAMPLES_A_FRAME, Duo, connected
from .processes import TREE, running_all, until
from .talking import Talk
from .test_bad_input import TABLE, sound

FRAMES = 19


def jpegs(duo: Duo, **fields: Any) -> list[bytes]:
    return list(duo.pictures.InferBatchComposite(pb.CompositeBatchRequest(**fields), timeout=CALL_S).composited_frames)


def requests(speech: np.ndarray) -> dict[str, dict[str, Any]]:
    spoken = {"raw_audio": speech[: 40 * SAMPLES_A_FRAME].tobytes(), "lead_in_frames": 10, "audio_start_frame": 3}
    pcm = (speech[: 25 * 441 * 2] * 20_000).astype("<i2")
    values = np.random.default_rng(3).uniform(0, 6, (FRAMES + 15) * 512).astype("<f4")
    return {
        "sound": spoken | {"start_frame_idx": 2},
        "16-bit sound at 22.05 kHz": {"raw_audio": pcm.tobytes(), "audio_encoding": 1, "sample_rate": 22_050},
        "raw pixels": spoken | {"output_format": pb.FORMAT_RAW_BGR},
        "another quality": spoken | {"quality_preset": pb.QUALITY_HIGH},
        "a window": {"audio_features": values[:8192].tobytes()},
        "rows": {"feature_rows": values.tobytes()},
        "pictures of the caller's": spoken | {"visual_frames": np.full(6 * 320 * 320, 0.25, "<f4").tobytes()},
        "idle": {"idle": True, "start_frame_idx": 1},
    }


@pytest.mark.parametrize("avatar_id", ["small", "feather", "direct", "fixed", "forward"])
def test_the_frames_are_those_of_two_processes(duo: Duo, solo: Duo, speech: np.ndarray, avatar_id: str) -> None:
    for name, fields in requests(speech).items():
        wanted = jpegs(duo, model_id=avatar_id, batch_size=FRAMES, **fields)
        assert len(wanted) == FRAMES
        assert jpegs(solo, model_id=avatar_id, batch_size=FRAMES, **fields) == wanted, name


def test_the_demo_s_frames_too(duo: Duo, solo: Duo, demo: object, speech: np.ndarray) -> None:
    fields = {"model_id": "demo", "batch_size": 24, "raw_audio": speech.tobytes(), "lead_in_frames": 10}
    assert jpegs(solo, **fields) == jpegs(duo, **fields)


def test_halves_meet_without_a_call(solo: Duo, speech: np.ndarray) -> None:
    """The inference service has served no call of gRPC when pictures were made."""
    jpegs(solo, model_id="small", batch_size=2, raw_audio=speech[:6400].tobytes())
    text = solo.compositing.get("/metrics")
    assert 'grpc_service="compositing.CompositingService"' in text
    assert 'grpc_method="InferStream"' not in text
    assert 'grpc_method="InferBatch"' not in text


def test_one_process_with_one_place_for_its_metrics(solo: Duo) -> None:
    assert solo.compositing.process is solo.inference.process
    assert solo.compositing.metrics_address == solo.inference.metrics_address
    assert solo.compositing.address != solo.inference.address
    text = solo.compositing.get("/metrics")
    for name in ("lipsync_inference_frames_total", "lipsync_compositing_frames_total", "lipsync_running_calls"):
        assert f"\n# TYPE {name}" in text
    assert solo.compositing.metric("lipsync_compositing_inference_up") == 1
    assert solo.compositing.get("/health/ready") == "ok\n"


def test_bad_requests_get_the_same_answers(duo: Duo, solo: Duo) -> None:
    def answer(services: Duo, fields: dict[str, Any]) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            jpegs(services, **fields)
        return caught.value.code(), caught.value.details() or ""

    for bad in TABLE:
        if bad.only != "inference":
            fields = {"model_id": "small", "batch_size": 3, "raw_audio": sound()} | bad.fields()
            wanted, got = answer(duo, fields), answer(solo, fields)
            assert got == wanted, bad.name
            assert got[0] is bad.code, bad.name


def test_health_and_lists(solo: Duo) -> None:
    health = solo.pictures.Health(pb.HealthRequest(), timeout=CALL_S)
    assert (health.healthy, health.inference_server_healthy) == (True, True)
    assert health.inference_server_url == "in this process"
    there = solo.mouths.Health(inference_pb2.HealthRequest(), timeout=CALL_S)
    assert there.healthy
    for channel in (solo.to_compositing, solo.to_inference):
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", *SERVICES):
            state = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=CALL_S)
            assert state.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        [answer] = reflection.ServerReflectionInfo(iter([question]), timeout=CALL_S)
        assert set(SERVICES) <= {each.name for each in answer.list_services_response.service}


def test_loading_acts_on_both_halves(solo: Duo) -> None:
    def loaded() -> tuple[bool, bool]:
        here = {model.model_id: model for model in solo.pictures.ListModels(pb.ListModelsRequest()).models}
        there = {model.model_id: model for model in solo.mouths.ListModels(inference_pb2.ListModelsRequest()).models}
        return here["other"].loaded, there["other"].loaded

    with Client(solo.compositing.address) as client:
        client.load("other")
        assert loaded() == (True, True)
        client.unload("other")
        assert loaded() == (False, False)


@pytest.mark.parametrize("pacing", [pb.AS_FAST_AS_POSSIBLE, pb.REALTIME])
def test_a_live_session_has_the_frames_of_a_batch(duo: Duo, solo: Duo, speech: np.ndarray, pacing: pb.Pacing.ValueType) -> None:
    """One with a clock is admitted by this process's own measurements."""
    sound = speech[: 25 * SAMPLES_A_FRAME].tobytes()
    config = pb.SessionConfig(model_id="small", pacing=pacing, audio_encoding=pb.PCM_FLOAT32)
    with Talk(solo.pictures, config) as talk:
        talk.say(sound)
        if pacing == pb.REALTIME:
            until(lambda: solo.inference.metric("lipsync_inference_sessions") == 1)
        talk.wait(lambda: talk.of("segment_ended"))
        spoken = talk.speech
    assert len(spoken) == 25
    for frame in spoken[::6]:
        fields = {"lead_in_frames": frame.audio_us // 40_000, "start_frame_idx": frame.position}
        assert [frame.picture] == jpegs(duo, model_id="small", batch_size=1, raw_audio=sound, **fields)


def test_sigterm_lets_calls_finish_and_exits_0(tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    write_avatar(root, "slow", network=slow_network(layers=4))
    with (
        running_all(f"models_root={root}", "models.slow.preload=true", log=tmp_path / "log") as (compositing, inference, _),
        connected(inference, compositing) as duo,
    ):
        fields = {"model_id": "slow", "audio_features": bytes(8192 * 4)}
        begun = inference.metric("lipsync_inference_frames_total")
        frames: list[bytes] = []
        caller = threading.Thread(target=lambda: frames.extend(jpegs(duo, batch_size=12, **fields)))
        caller.start()
        until(lambda: inference.metric("lipsync_inference_frames_total") > begun)
        compositing.signal(signal.SIGTERM)
        caller.join(CALL_S)
        assert len(frames) == 12
        assert compositing.process.wait(CALL_S) == 0
        with pytest.raises((urllib.error.URLError, OSError)):
            compositing.get("/health/ready")


def test_sigterm_tells_sessions_and_lets_their_segment_end(models_root: Path, tmp_path: Path, speech: np.ndarray) -> None:
    """The half that makes mouths goes on until the last session has ended."""
    with (
        running_all(f"models_root={models_root}", log=tmp_path / "log") as (compositing, inference, _),
        connected(inference, compositing) as duo,
        Talk(duo.pictures, pb.SessionConfig(model_id="small", audio_encoding=pb.PCM_FLOAT32)) as talk,
    ):
        talk.say(speech[: 40 * SAMPLES_A_FRAME].tobytes())
        talk.wait(lambda: talk.speech)
        compositing.signal(signal.SIGTERM)
        assert talk.failure().code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert len(talk.speech) == 40
        [away] = talk.of("going_away")
        assert away.reason == pb.GOING_AWAY_DRAINING
        assert compositing.process.wait(CALL_S) == 0


def serve_all(*options: str) -> subprocess.CompletedProcess[str]:
    """One that is expected to end by itself."""
    command = [sys.executable, "-m", "lipsync_cli", "serve", "all", *options]
    return subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=CALL_S, check=False)


def test_a_wrong_configuration_is_refused_with_every_problem(tmp_path: Path) -> None:
    config = tmp_path / "all.yaml"
    config.write_text("server: {port: 99999}\ngpus: {enabled: perhaps}\noutput: {jpeg_quality: 0}\nsurprise: 1\n")
    ended = serve_all("--config", str(config), "--set", "server.inference_port=x")
    assert ended.returncode == 1
    for key in ("server.port", "gpus.enabled", "output.jpeg_quality", "surprise", "server.inference_port"):
        assert key in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_named(solo: Duo, tmp_path: Path) -> None:
    free = [f"--set=server.{port}=127.0.0.1:0" for port in ("port", "compositing_port")]
    taken = solo.inference.address
    ended = serve_all(*free, f"--set=server.inference_port={taken}", f"--set=models_root={tmp_path}")
    assert ended.returncode == 1
    assert f"server.inference_port: {taken} is in use" in ended.stderr


def test_a_file_of_the_earlier_monolithic_server(models_root: Path, tmp_path: Path, speech: np.ndarray) -> None:
    config = tmp_path / "old.yaml"
    config.write_text(f"""
server: {{port: "127.0.0.1:0", max_message_size_mb: 50, worker_count_per_gpu: 2, queue_size: 20}}
gpus: {{enabled: false, count: 1, memory_gb_per_gpu: 24, assignment_strategy: round-robin, allow_multi_gpu_models: false}}
capacity: {{max_models: 3, max_memory_gb: 8, background_cache_frames: 100, eviction_policy: lfu, idle_timeout_minutes: 60}}
onnx: {{library_path: onnxruntime.dll, cuda_streams_per_worker: 2, intra_op_threads: 2, inter_op_threads: 1}}
inference_server: {{url: "elsewhere:50051", timeout_seconds: 5}}
output: {{format: jpeg, jpeg_quality: 80}}
models_root: {models_root}
models: {{small: {{preload_model: true, preload_backgrounds: true, preferred_gpu: -1}}}}
logging: {{log_level: info, log_inference_times: true, log_compositing_times: true, log_cache_stats: true, buffered_logging: true,
  sample_rate: 1, auto_flush: true, flush_interval_ms: 100}}
""")
    with (
        running_all(log=tmp_path / "log", config=config) as (compositing, _, _),
        grpc.insecure_channel(compositing.address, CHANNEL_OPTIONS) as channel,
    ):
        stub = CompositingServiceStub(channel)
        listed = {model.model_id: model for model in stub.ListModels(pb.ListModelsRequest(), timeout=CALL_S).models}
        assert listed["small"].loaded
        request = pb.CompositeBatchRequest(model_id="small", raw_audio=speech[:6400].tobytes(), batch_size=5)
        assert len(stub.InferBatchComposite(request, timeout=CALL_S).composited_frames) == 5
    log = (tmp_path / "log").read_text()
    assert "onnx.library_path: no effect here" in log
    assert "inference_server: no effect here; this process makes the mouths itself" in log
    assert "composited" in log
    assert "inferred" in log
