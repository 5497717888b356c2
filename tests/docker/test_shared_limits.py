"""Compositing services that count limits together in Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import grpc
import pytest
from docker.models.containers import Container

from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from .callers import CALL_S, plain_channel, request
from .stack import CPU, MARKS, Stack, until

pytestmark = MARKS
FRAMES = 10


@pytest.fixture(scope="module")
def pair(images: docker.DockerClient, models: Path) -> Iterator[Stack]:
    """Two compositing services, where a caller may have so many frames a minute."""
    files = (*CPU, "deploy/compose/shared-limits.yml")
    project = Stack(images, "lipsync-test-limits", files, {"MODELS": str(models), "CALLER_FRAMES": str(FRAMES)})
    project.down()
    try:
        project.up(compositing=2)
        yield project
    finally:
        project.down()


def asked(pair: Stack, compositor: Container, key: str) -> grpc.StatusCode:
    """The status of a batch with all the frames of a minute."""
    with plain_channel(f"{pair.address_in(compositor, 'front')}:50052", key=key) as channel:
        try:
            CompositingServiceStub(channel).InferBatchComposite(request(frames=FRAMES), timeout=CALL_S)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_what_one_gives_a_caller_the_other_counts(pair: Stack) -> None:
    first, second = pair.containers("compositing")
    other = pair.compose("run", "--rm", "-T", "keys", "create", "another").strip()
    until(lambda: asked(pair, first, other) is grpc.StatusCode.OK, within_s=CALL_S)
    assert asked(pair, second, other) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert asked(pair, second, pair.key) is grpc.StatusCode.OK
    assert asked(pair, first, pair.key) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_nobody_is_let_in_without_the_password(pair: Stack) -> None:
    valkey = pair.one("valkey")
    assert b"NOAUTH" in valkey.exec_run(["valkey-cli", "keys", "*"]).output
    assert not valkey.attrs["NetworkSettings"]["Ports"].get("6379/tcp")
    password = pair.containers("compositing")[0].exec_run(["cat", "/keys/compositing/store.password"]).output.decode().strip()
    assert len(password) == 64
    assert password not in valkey.exec_run(["cat", "/etc/valkey/users.acl"]).output.decode()


def test_without_it_limits_let_everything_through(pair: Stack) -> None:
    key = pair.compose("run", "--rm", "-T", "keys", "create", "third").strip()
    first = pair.containers("compositing")[0]
    until(lambda: asked(pair, first, key) is not grpc.StatusCode.UNAUTHENTICATED, within_s=CALL_S)
    assert asked(pair, first, key) is grpc.StatusCode.RESOURCE_EXHAUSTED
    pair.one("valkey").stop()
    assert asked(pair, first, key) is grpc.StatusCode.OK
    assert pair.metric(first, "lipsync_quota_unchecked_total") > 0
