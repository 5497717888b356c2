"""Replicas that name their numerics alike give the same bytes, and say so in every answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np

from shared_proto import compositing_pb2
from shared_proto import inference_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from ..programs import program
from .avatars import slow_network, write_avatar
from .conftest import CALL_S, CHANNEL_OPTIONS
from .processes import TREE, Service, free_port, running
from .talking import Talk, config, noise


def answers(models: Path, log: Path, *settings: str) -> tuple[pb.HealthResponse, pb.LoadModelResponse, list[pb.MouthRegion]]:
    """One replica's words on itself and on an avatar, and the mouths that it makes of a sound."""
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
        assert list(loaded.run_sizes) == [1], "on a CPU"
    assert one[1].numerics == other[1].numerics
    assert b"".join(region.data for region in one[2]) == b"".join(region.data for region in other[2])
    assert exact[0].numerics.startswith("onnxruntime-")
    assert (exact[1].numerics == one[1].numerics) == (exact[0].numerics == one[0].numerics)


@contextmanager
def one_address(services: Sequence[Service], folder: Path) -> Iterator[str]:
    """A balancer that gives each call to the next of the services."""
    port = free_port()
    servers = [f"server s{place} {service.address} proto h2" for place, service in enumerate(services)]
    timeouts = [f"timeout {name} 60s" for name in ("connect", "client", "server")]
    lines = ["defaults", "mode http", *timeouts, "listen all", f"bind 127.0.0.1:{port} proto h2", "balance roundrobin", *servers]
    config = folder / "haproxy.cfg"
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([program("haproxy", "haproxy"), "-db", "-f", str(config)])
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def loaded_numerics(service: Service, avatars: list[str]) -> list[str]:
    with grpc.insecure_channel(service.address) as channel:
        stub = InferenceServiceStub(channel)
        return [stub.LoadModel(pb.LoadModelRequest(model_id=avatar), timeout=CALL_S).numerics for avatar in avatars]


def test_a_session_stays_with_its_engine_on_another_compositing_service(tmp_path: Path) -> None:
    """Two engines behind one address. The compositing service that the session comes to knows of neither."""
    models, avatars = tmp_path / "models", ["anna", "ben", "cleo", "dora"]
    for avatar in avatars:
        write_avatar(models, avatar)
    settings = f"models_root={models}", "precision=float32", "limits.admit_sessions=all"
    with ExitStack() as stack:
        engines = [
            stack.enter_context(running("inference", *settings, f"engine={engine}", log=tmp_path / engine))
            for engine in ("onnxruntime", "openvino")
        ]
        url = f"inference_server.url={stack.enter_context(one_address(engines, tmp_path))}"
        first, second = (
            stack.enter_context(running("compositing", f"models_root={models}", url, log=tmp_path / name)) for name in ("a", "b")
        )
        ways = [loaded_numerics(engine, avatars) for engine in engines]
        for turn, avatar in enumerate(avatars):
            for way in ways[turn % 2][turn], ways[1 - turn % 2][turn]:
                resume = compositing_pb2.SessionResume(next_number=5, segment=1, numerics=way)
                assert told_numerics(second, avatar, resume) == [way]
        assert second.metric("lipsync_compositing_numerics_changes_total") == 0
        assert {name for avatar in avatars for name in told_numerics(first, avatar, None)} <= {*ways[0], *ways[1]}


def told_numerics(service: Service, avatar: str, resume: compositing_pb2.SessionResume | None) -> list[str]:
    """Returns the names that a session gives to the way of its mouths."""
    talking = config(model_id=avatar, idle=compositing_pb2.IDLE_NONE, resume=resume)
    with grpc.insecure_channel(service.address) as channel, Talk(CompositingServiceStub(channel), talking) as talk:
        talk.say(noise(1.0))
        talk.end()
    return [frame.numerics for frame in talk.frames if frame.numerics]


def test_a_precision_that_cannot_be_had_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    command = [sys.executable, "-m", "lipsync_cli", "serve", "inference", "--set", f"models_root={tmp_path / 'models'}"]
    settings = ["--set", "engine=onnxruntime", "--set", "precision=bfloat16"]
    settings += ["--set", "server.port=127.0.0.1:0", "--set", "metrics.port=127.0.0.1:0"]
    ended = subprocess.run([*command, *settings], cwd=TREE, check=False, capture_output=True, text=True, timeout=CALL_S)
    assert ended.returncode == 1
    assert "precision: bfloat16 needs engine: openvino or auto" in ended.stderr
