"""Several inference services: an avatar stays with one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import docker
import grpc
import pytest

from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2 import ListModelsRequest, ModelInfo
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from .callers import CALL_S, advised_caller, load, plain_channel, request
from .certificates import make_certificates
from .stack import CPU, MARKS, Stack, chmod_for_containers, kill, until

pytestmark = MARKS

AVATARS = ["demo", *(f"twin{number}" for number in range(15))]
MULTI = (*CPU, "deploy/compose/multi-inference.yml")


@pytest.fixture(scope="module")
def many(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo avatar under several ids."""
    root = tmp_path_factory.mktemp("many")
    shutil.copytree(models, root, dirs_exist_ok=True)
    for avatar in AVATARS[1:]:
        shutil.copytree(root / "demo", root / avatar)
    chmod_for_containers(root)
    return root


@pytest.fixture(scope="module")
def pair(images: docker.DockerClient, many: Path) -> Iterator[Stack]:
    """Two inference services behind a balancer, two compositors."""
    project = Stack(images, "lipsync-test-multi", MULTI, {"MODELS": str(many)})
    project.down()
    try:
        project.up(inference=2, compositing=2)
        yield project
    finally:
        project.down()


def test_an_avatar_is_always_with_the_same_one(pair: Stack) -> None:
    ask_all(pair, times=3)
    homes = loaded(pair)
    assert sorted(avatar for avatars in homes.values() for avatar in avatars) == sorted(AVATARS)  # each with one, none with two
    assert all(homes.values())  # and neither has none


def test_only_the_avatars_of_a_lost_one_move(pair: Stack) -> None:
    """Callers with the documented retry notice nothing."""
    ask_all(pair, times=1)
    before = loaded(pair)
    [home] = [name for name, avatars in before.items() if "demo" in avatars]
    with load(advised_caller, pair) as calls:
        kill(pair.client.containers.get(home))
        calls.wait_for(40)
        pair.wait_healthy()
        until(lambda: "demo" in loaded(pair)[home], within_s=CALL_S)
        calls.wait_for(40)
    assert calls.lost == []
    ask_all(pair, times=1)
    for name, avatars in before.items():
        assert avatars <= loaded(pair)[name]


def test_all_of_it_over_tls(pair: Stack, many: Path, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    files = (*MULTI, "deploy/compose/tls.yml", "deploy/compose/multi-inference-tls.yml")
    secured = Stack(pair.client, pair.name, files, {"MODELS": str(many), "CERTIFICATES": str(tmp_path)})
    secured.up(inference=2, compositing=1)
    with plain_channel(secured.address, certificates.as_anyone(), key=secured.key) as channel:
        reply = CompositingServiceStub(channel).InferBatchComposite(request(), timeout=CALL_S)
    assert len(reply.composited_frames) == 2


def ask_all(stack: Stack, *, times: int) -> None:
    """Every avatar speaks."""
    with plain_channel(stack.address, key=stack.key) as channel:
        stub = CompositingServiceStub(channel)
        for number in range(times):
            for avatar in AVATARS:
                stub.InferBatchComposite(request(avatar, start=number), timeout=CALL_S)


def loaded(stack: Stack) -> dict[str, set[str]]:
    """Avatars of each inference container, by its name."""
    found = {}
    for container in stack.containers("inference"):
        with plain_channel(f"{stack.address_in(container, 'inference')}:50051", key=stack.key) as channel:
            models: list[ModelInfo] = []
            with suppress(grpc.RpcError):  # one that was killed holds none
                models.extend(InferenceServiceStub(channel).ListModels(ListModelsRequest(), timeout=CALL_S).models)
            found[str(container.name)] = {model.model_id for model in models if model.loaded}
    return found
