"""Operators' work on running services: loading, reloading, watching, stopping."""

from __future__ import annotations

import json
import signal
import threading
import urllib.error
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner

from lipsync_cli.main import app
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2

from ..wire_contract import file_of
from .avatars import exact_network, slow_network, write_avatar
from .conftest import CALL_S, Duo, serving
from .processes import Service, running, until

Code = grpc.StatusCode
OF_TWO = ["inference.InferenceService", "compositing.CompositingService"]
FEATURES = np.random.default_rng(2).uniform(0, 6, 8192).astype("<f4").tobytes()
LOGGED = "logging.format=json", "logging.log_inference_times=true", "logging.log_compositing_times=true"


@pytest.fixture(scope="module")
def own_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of avatars that tests may change, each its own."""
    root = tmp_path_factory.mktemp("changing")
    for avatar_id in ("loaded", "seen", "broken-later"):
        write_avatar(root, avatar_id)
    return root


@pytest.fixture(scope="module")
def own(own_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    """Services over `own_root`."""
    with serving(own_root, tmp_path_factory.mktemp("own_logs"), *LOGGED) as duo:
        yield duo


@pytest.mark.parametrize("service", ["inference", "compositing"])
def test_a_folder_of_avatars_that_is_missing_is_told_at_start(tmp_path: Path, service: str) -> None:
    log, told = tmp_path / "log", f"WARNING {service} models_root: there is no folder {tmp_path}/modles"
    settings = {"inference": (), "compositing": ("inference_server.url=127.0.0.1:1",)}[service]
    with running(service, f"models_root={tmp_path}/modles", *settings, log=log):
        until(lambda: told in " ".join(log.read_text().split()))
    with running(service, f"models_root={tmp_path}", *settings, log=log):
        pass
    assert "models_root:" not in log.read_text()


def ask(duo: Duo, model_id: str, **fields: object) -> list[bytes]:
    request = pb.CompositeBatchRequest(**{"model_id": model_id, "batch_size": 3, "audio_features": FEATURES, **fields})
    return list(duo.pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames)


def loaded(duo: Duo, model_id: str) -> tuple[bool, bool]:
    """Two flags: the compositing service holds it, the inference service holds it."""
    here = {model.model_id: model.loaded for model in duo.pictures.ListModels(pb.ListModelsRequest()).models}
    there = {model.model_id: model.loaded for model in duo.mouths.ListModels(inference_pb2.ListModelsRequest()).models}
    return here[model_id], there[model_id]


def load(duo: Duo, model_id: str, *, force_reload: bool = False) -> pb.LoadModelResponse:
    reply: pb.LoadModelResponse = duo.pictures.LoadModel(
        pb.LoadModelRequest(model_id=model_id, force_reload=force_reload), timeout=CALL_S
    )
    return reply


def test_load_and_unload_act_on_both(own: Duo) -> None:
    assert loaded(own, "loaded") == (False, False)
    reply = load(own, "loaded")
    assert reply.success
    assert reply.load_time_ms > 0
    assert loaded(own, "loaded") == (True, True)
    [here] = own.pictures.GetModelStats(pb.GetModelStatsRequest(model_id="loaded")).models
    [there] = own.mouths.GetModelStats(inference_pb2.GetModelStatsRequest(model_id="loaded")).models
    assert here.stats.memory_bytes > 0
    assert there.stats.memory_bytes > 0
    assert own.pictures.UnloadModel(pb.UnloadModelRequest(model_id="loaded"), timeout=CALL_S).success
    assert loaded(own, "loaded") == (False, False)
    assert len(ask(own, "loaded")) == 3  # loads again


def test_use_is_counted(own: Duo) -> None:
    def stats(service: object, module: object) -> object:
        return service.GetModelStats(module.GetModelStatsRequest(model_id="seen")).models[0].stats

    ask(own, "seen")
    before = stats(own.pictures, pb), stats(own.mouths, inference_pb2)
    for _ in range(4):
        ask(own, "seen")
    after = stats(own.pictures, pb), stats(own.mouths, inference_pb2)
    for was, now in zip(before, after, strict=True):
        assert now.usage_count == was.usage_count + 4
        assert now.total_inference_time_ms > was.total_inference_time_ms
        assert now.last_used_unix_ms >= was.last_used_unix_ms > now.loaded_unix_ms - 1


def test_a_new_avatar_is_served_without_a_restart(own: Duo, own_root: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(own, "newcomer")
    assert caught.value.code() is Code.NOT_FOUND
    write_avatar(own_root, "newcomer")
    assert ask(own, "newcomer") == ask(own, "seen")


def test_changed_files_are_read_by_force_reload(own: Duo, own_root: Path) -> None:
    """A loaded avatar goes on, also without its files, until somebody asks for the new ones."""
    write_avatar(own_root, "changing")
    load(own, "changing")
    old = ask(own, "changing", batch_size=5)
    for avatar_id in ("changing", "changed"):
        new_network = exact_network(gain=0.0625)
        write_avatar(own_root, avatar_id, network=new_network, seed=30, frames=4, replace=avatar_id == "changing")
    load(own, "changing")
    assert ask(own, "changing", batch_size=5) == old
    assert load(own, "changing", force_reload=True).success
    new = ask(own, "changing", batch_size=8)
    assert new == ask(own, "changed", batch_size=8)
    assert new[:5] != old


def test_a_failed_reload_keeps_the_old(own: Duo, own_root: Path) -> None:
    old = ask(own, "broken-later", batch_size=5)
    (own_root / "broken-later" / "network.onnx").write_bytes(b"no network")
    with pytest.raises(grpc.RpcError) as caught:
        load(own, "broken-later", force_reload=True)
    assert caught.value.code() is Code.FAILED_PRECONDITION
    assert ask(own, "broken-later", batch_size=5) == old


@pytest.mark.parametrize("service", OF_TWO)
def test_standard_health(own: Duo, service: str) -> None:
    channel = own.to_compositing if service.startswith("compositing") else own.to_inference
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", service):
        reply = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=CALL_S)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nobody.Nobody"), timeout=CALL_S)
    assert caught.value.code() is Code.NOT_FOUND


@pytest.mark.parametrize("service", OF_TWO)
def test_reflection_tells_the_contract(own: Duo, service: str) -> None:
    package = service.partition(".")[0]
    channel = own.to_compositing if package == "compositing" else own.to_inference
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=service),
    ]
    names, files = stub.ServerReflectionInfo(iter(questions), timeout=CALL_S)
    assert {service, "grpc.health.v1.Health"} <= {each.name for each in names.list_services_response.service}
    [encoded] = files.file_descriptor_response.file_descriptor_proto
    told = descriptor_pb2.FileDescriptorProto.FromString(encoded)
    fields = {(message.name, field.number, field.name) for message in told.message_type for field in message.field}
    assert {
        (message.name, field.number, field.name) for message in file_of(package).message_type for field in message.field
    } <= fields


def is_idle(service: Service) -> bool:
    return service.metric("lipsync_running_calls") == 0


def test_frames_are_counted(own: Duo) -> None:
    handled = "grpc_server_handled_total"
    for service, name in (
        (own.compositing, "lipsync_compositing_frames_total"),
        (own.inference, "lipsync_inference_frames_total"),
    ):
        ask(own, "seen")
        until(partial(is_idle, service))  # the answer comes before the call's end
        frames, calls = service.metric(name), service.metric(handled)
        ask(own, "seen", batch_size=7)
        until(partial(is_idle, service))
        assert service.metric(name) == frames + 7
        assert service.metric(handled) == calls + 1
        assert 'grpc_code="OK"' in service.get("/metrics")
        assert service.get("/health/live")
        assert service.get("/health/ready")


def test_a_request_id_is_in_the_logs_of_both(own: Duo) -> None:
    request = pb.CompositeBatchRequest(model_id="seen", batch_size=3, audio_features=FEATURES)
    metadata = (("x-request-id", "order-4711"), ("x-session-id", "talk-8"))
    _, call = own.pictures.InferBatchComposite.with_call(request, metadata=metadata, timeout=CALL_S)
    told = dict(call.initial_metadata()) | dict(call.trailing_metadata())
    assert told["x-request-id"] == "order-4711"
    for service in (own.compositing, own.inference):
        until(lambda service=service: "order-4711" in service.log.read_text())
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]
        [about, *_] = [line for line in lines if "order-4711" in line.values()]
        assert "talk-8" in about.values()


def test_sigterm_lets_calls_finish_and_exits_0(tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    write_avatar(root, "slow", network=slow_network(layers=4))
    with serving(root, tmp_path) as duo:
        ask(duo, "slow", batch_size=1)
        begun = duo.inference.metric("lipsync_inference_frames_total")
        frames: list[bytes] = []
        caller = threading.Thread(target=lambda: frames.extend(ask(duo, "slow", batch_size=12)))
        caller.start()
        until(lambda: duo.inference.metric("lipsync_inference_frames_total") > begun)
        assert not frames
        for service in (duo.compositing, duo.inference):
            service.signal(signal.SIGTERM)
        caller.join(CALL_S)
        assert len(frames) == 12
        assert [service.process.wait(CALL_S) for service in (duo.compositing, duo.inference)] == [0, 0]
        with pytest.raises((urllib.error.URLError, OSError)):
            duo.compositing.get("/health/ready")


def test_a_second_service_on_the_port_does_not_start(own: Duo, tmp_path: Path) -> None:
    second = running("inference", f"server.port={own.inference.address}", log=tmp_path / "log")
    with pytest.raises(AssertionError, match=r"did not start"), second:
        pass
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_linked_avatar_is_the_same_to_services_and_commands(own: Duo, own_root: Path, tmp_path: Path) -> None:
    """Also one that leads out of the folder of avatars."""
    write_avatar(tmp_path, "elsewhere")
    (own_root / "linked").symlink_to(tmp_path / "elsewhere")
    here = {model.model_id: model for model in own.pictures.ListModels(pb.ListModelsRequest()).models}["linked"]
    there = {model.model_id: model for model in own.mouths.ListModels(inference_pb2.ListModelsRequest()).models}["linked"]
    assert (here.error, there.error) == ("", "")
    assert here.model_path == there.model_path == "linked/network.onnx"
    assert ask(own, "linked") == ask(own, "seen")
    for command in (["verify", "linked"], ["list"], ["inspect", "linked", "--out", str(tmp_path / "sheet.png")]):
        result = CliRunner().invoke(app, ["avatar", *command, "--models-root", str(own_root)])
        assert result.exit_code == 0, result.output
        assert "linked" in result.output
    (own_root / "linked").unlink()
