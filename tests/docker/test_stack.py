"""`docker-compose up`: the services that it brings up from nothing, and the limits that it shuts them in."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path

import docker
import grpc
import pytest

from lipsync_cli.main import main
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2 import ListModelsRequest
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from ..end_to_end.processes import running
from .callers import CALL_S, plain_channel, request
from .stack import MARKS, Stack, kill, until

pytestmark = MARKS

Code = grpc.StatusCode
SERVICES = ("inference", "compositing", "gateway", "haproxy")
# Tries to write everywhere that matters, and says who it is.
WRITE = """
import os
for place in ("/", "/opt/lipsync", "/models", "/usr/local/bin", "/etc"):
    try:
        open(os.path.join(place, "written"), "w").close()
    except OSError as error:
        print(place, error.strerror)
    else:
        print(place, "was written")
open("/tmp/written", "w").close()
print("user", os.getuid(), os.geteuid())
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("CapBnd")])
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")])
"""
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
except OSError as error:
    print("refused:", error)
else:
    print("connected")
"""


def test_a_first_up_makes_a_person_speak(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film, key_file = tmp_path / "speech.mp4", tmp_path / "tester.key"
    key_file.write_text(stack.key)
    speech = Path("avatar_tools/demo/speech/speech.wav").resolve()
    arguments = ["render", "--server", stack.address, "--avatar", "demo", "--audio", str(speech), "--out", str(film)]
    arguments += ["--api-key-file", str(key_file)]
    monkeypatch.setattr("sys.argv", ["lipsync", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert film.stat().st_size > 100_000


def test_frames_through_the_balancer_are_those_of_local_services(stack: Stack, models: Path, tmp_path: Path) -> None:
    """Byte for byte, whatever the balancer and the containers add."""
    requests = [request(frames=frames, start=start) for frames, start in ((1, 0), (7, 40), (50, 140))]

    def frames(address: str, key: str = "") -> list[list[bytes]]:
        with plain_channel(address, key=key) as channel:
            stub = CompositingServiceStub(channel)
            replies = [stub.InferBatchComposite(wanted, timeout=CALL_S) for wanted in requests]
        return [[*reply.composited_frames] for reply in replies]

    with (
        running("inference", f"models_root={models}", log=tmp_path / "inference") as inference,
        running(
            "compositing", f"models_root={models}", f"inference_server.url={inference.address}", log=tmp_path / "compositing"
        ) as compositing,
    ):
        expected = frames(compositing.address)
    assert [len(reply) for reply in expected] == [1, 7, 50]
    assert frames(stack.address, stack.key) == expected


def test_a_second_up_leaves_avatars_and_keys_alone(stack: Stack) -> None:
    def kept() -> list[bytes]:
        avatars = stack.one("inference").exec_run(["ls", "-lR", "/models"])
        keys = [
            stack.one(service).exec_run(["sha256sum", f"/keys/{file}"])
            for service, file in (
                ("compositing", "compositing/api.key"),
                ("gateway", "gateway/api.key"),
                ("gateway", "gateway/tickets.secret"),
                ("inference", "known/keys.json"),
            )
        ]
        assert [each.exit_code for each in (avatars, *keys)] == [0] * 5
        return [each.output for each in (avatars, *keys)]

    before = kept()
    stack.up()
    assert kept() == before
    for service in ("init", "keys"):
        [once] = stack.containers(service, all=True)
        assert once.wait()["StatusCode"] == 0
        assert b"already" in once.logs()


@pytest.mark.parametrize("service", ["inference", "compositing", "gateway"])
def test_services_can_write_nothing_and_are_nobody(stack: Stack, service: str) -> None:
    code, output = stack.one(service).exec_run(["python3", "-c", WRITE])
    lines = output.decode().splitlines()
    assert code == 0, lines
    assert lines[:5] == [f"{place} Read-only file system" for place in ("/", "/opt/lipsync", "/models", "/usr/local/bin", "/etc")]
    assert lines[5:] == ["user 10001 10001", "['0000000000000000']", "['1']"]


@pytest.mark.parametrize("service", SERVICES)
def test_the_first_process_is_the_service_itself(stack: Stack, service: str) -> None:
    """It gets the signals; no shell stands between. And it is confined as the files say, not only what is run beside it."""
    container = stack.one(service)
    [process] = [row for row in container.top()["Processes"] if row[1] == str(container.attrs["State"]["Pid"])]
    assert process[0] in {"10001", "lipsync"}
    assert "/bin/sh" not in process[-1]
    confinement = container.attrs["HostConfig"]
    assert confinement["ReadonlyRootfs"] is True
    assert confinement["CapDrop"] == ["ALL"]
    assert confinement["SecurityOpt"] == ["no-new-privileges:true"]
    assert confinement["Privileged"] is False


def test_only_the_balancer_is_reached_from_outside(stack: Stack) -> None:
    published = {
        str(container.labels["com.docker.compose.service"])
        for container in stack.containers()
        if any(container.attrs["NetworkSettings"]["Ports"].values())
    }
    assert published == {"haproxy"}


def test_inference_is_reached_by_compositing_only(stack: Stack, images: docker.DockerClient) -> None:
    inference = stack.address_in(stack.one("inference"), "inference")
    for target in ("inference", inference):
        inside = stack.one("compositing").exec_run(["python3", "-c", CONNECT, target, "50051"])
        assert inside.output.decode().strip() == "connected"
        outside = images.containers.run(
            "lipsync-test/compositing:latest",
            ["-c", CONNECT, target, "50051"],
            entrypoint="python3",
            network=f"{stack.name}_front",
            remove=True,
        )
        assert outside.decode().startswith("refused:")


def test_inference_reaches_nothing_outside(stack: Stack) -> None:
    gateway = stack.client.networks.get(f"{stack.name}_front").attrs["IPAM"]["Config"][0]["Gateway"]
    out = stack.one("inference").exec_run(["python3", "-c", CONNECT, stack.address_in(stack.one("haproxy"), "front"), "50052"])
    assert out.output.decode().startswith("refused:"), gateway


def test_nobody_is_let_in_without_a_key(stack: Stack) -> None:
    for key in ("", f"{stack.key[:-1]}{'0' if stack.key[-1] != '0' else '1'}"):
        with plain_channel(stack.address, key=key) as channel, pytest.raises(grpc.RpcError) as refused:
            CompositingServiceStub(channel).InferBatchComposite(request(), timeout=CALL_S)
        assert refused.value.code() is Code.UNAUTHENTICATED
        with urllib.request.urlopen(f"http://{stack.browser_address}/", timeout=CALL_S) as page:
            assert page.status == 200
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(
                urllib.request.Request(f"http://{stack.browser_address}/api/avatars", headers={"X-Api-Key": key} if key else {})
            )
        assert error.value.code == 401
        error.value.close()
    inference = f"{stack.address_in(stack.one('inference'), 'inference')}:50051"
    with plain_channel(inference) as channel, pytest.raises(grpc.RpcError) as refused:
        InferenceServiceStub(channel).ListModels(ListModelsRequest(), timeout=CALL_S)
    assert refused.value.code() is Code.UNAUTHENTICATED


def test_no_container_can_read_the_key_of_another(stack: Stack) -> None:
    kept = {name: stack.one(name).exec_run(["ls", "-R", "/keys"]).output.decode().split() for name in SERVICES[:3]}
    files = {name: {word for word in words if "." in word and not word.endswith(":")} for name, words in kept.items()}
    known = {"keys.json", "keys.json.lock"}
    assert files == {"inference": known, "compositing": {*known, "api.key"}, "gateway": {*known, "api.key", "tickets.secret"}}


def test_a_revoked_caller_is_shut_out(stack: Stack) -> None:
    key = stack.compose("run", "--rm", "-T", "keys", "create", "short-lived").strip()
    with plain_channel(stack.address, key=key) as channel:
        stub = CompositingServiceStub(channel)
        until(lambda: _code(stub) is Code.OK, within_s=CALL_S)
        stack.compose("run", "--rm", "-T", "keys", "revoke", "--caller", "short-lived")
        until(lambda: _code(stub) is Code.UNAUTHENTICATED, within_s=CALL_S)


def test_lost_inference_is_told_in_time_and_comes_back_by_itself(one_of_each: Stack) -> None:
    stack = one_of_each
    with plain_channel(stack.address, key=stack.key) as channel:
        stub = CompositingServiceStub(channel)
        assert stub.InferBatchComposite(request(), timeout=CALL_S).composited_frames
        container = stack.one("inference")
        container.stop()
        asked = time.monotonic()
        with pytest.raises(grpc.RpcError) as refused:
            stub.InferBatchComposite(request(), timeout=CALL_S)
        assert refused.value.code() is Code.UNAVAILABLE
        assert time.monotonic() - asked < CALL_S / 2  # long before the caller's own deadline
        container.start()
        until(lambda: _answers(stub), within_s=CALL_S)
        kill(container)
        until(lambda: _restarts(stack) == 1, within_s=CALL_S)
        until(lambda: _answers(stub), within_s=CALL_S)


def test_a_balancer_without_a_compositor_says_unavailable(one_of_each: Stack) -> None:
    compositor = one_of_each.one("compositing")
    with plain_channel(one_of_each.address, key=one_of_each.key) as channel:
        stub = CompositingServiceStub(channel)
        compositor.stop()
        with pytest.raises(grpc.RpcError) as refused:
            stub.InferBatchComposite(request(), timeout=CALL_S)
        assert refused.value.code() is Code.UNAVAILABLE
        compositor.start()
        until(lambda: _answers(stub), within_s=CALL_S)


def test_reaching_inference_past_the_balancer_is_not_offered(stack: Stack) -> None:
    with plain_channel(stack.address, key=stack.key) as channel, pytest.raises(grpc.RpcError) as refused:
        InferenceServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=CALL_S)
    assert refused.value.code() is Code.UNIMPLEMENTED


def test_down_leaves_nothing(images: docker.DockerClient, models: Path) -> None:
    project = Stack(images, "lipsync-test-down", variables={"MODELS": str(models)})
    project.up()
    assert len(left_of(project)) > len(project.containers())
    project.down()
    assert left_of(project) == []


def left_of(project: Stack) -> list[str]:
    """Names of all that Docker has of the project."""
    mine = {"label": f"com.docker.compose.project={project.name}"}
    docker_has = project.client
    found = [
        *docker_has.containers.list(all=True, filters=mine),
        *docker_has.networks.list(filters=mine),
        *docker_has.volumes.list(filters=mine),
    ]
    return [str(each.name) for each in found]


def _code(stub: CompositingServiceStub) -> grpc.StatusCode:
    try:
        stub.InferBatchComposite(request(), timeout=CALL_S)
    except grpc.RpcError as error:
        return error.code()
    return Code.OK


def _answers(stub: CompositingServiceStub) -> bool:
    try:
        return bool(stub.InferBatchComposite(request(), timeout=CALL_S).composited_frames)
    except grpc.RpcError as error:
        if error.code() is not Code.UNAVAILABLE:
            raise
        return False


def _restarts(stack: Stack) -> int:
    [container] = stack.containers("inference", all=True)
    container.reload()
    return int(container.attrs["RestartCount"])
