"""The TLS override: who is let in, and who is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import docker
import grpc
import pytest

from shared_proto.compositing_pb2_grpc import CompositingServiceStub
from shared_proto.inference_pb2 import ListModelsRequest
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from .callers import CALL_S, plain_channel, request
from .certificates import Certificates, make_certificates
from .stack import CPU, MARKS, Stack
from .test_browsers import SPEECH_FRAMES, spoken

pytestmark = MARKS

Code = grpc.StatusCode
REFUSED_S = 10


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made by the script that users have."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The same names, of an authority that nobody trusts."""
    return make_certificates(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def tls(images: docker.DockerClient, models: Path, certificates: Certificates) -> Iterator[Stack]:
    """The stack with the override."""
    variables = {"MODELS": str(models), "CERTIFICATES": str(certificates.folder)}
    project = Stack(images, "lipsync-test-tls", (*CPU, "deploy/compose/tls.yml"), variables)
    project.down()
    try:
        project.up()
        yield project
    finally:
        project.down()


def composited(stack: Stack, credentials: grpc.ChannelCredentials | None) -> int:
    """Number of pictures that came back."""
    with plain_channel(stack.address, credentials, key=stack.key) as channel:
        reply = CompositingServiceStub(channel).InferBatchComposite(request(), timeout=REFUSED_S, wait_for_ready=False)
    return len(reply.composited_frames)


def test_the_right_authority_is_enough_outside(tls: Stack, certificates: Certificates) -> None:
    assert composited(tls, certificates.as_anyone()) == 2


@pytest.mark.parametrize("how", ["plaintext", "unknown authority"])
def test_others_are_refused_outside(tls: Stack, strangers: Certificates, how: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        composited(tls, None if how == "plaintext" else strangers.as_anyone())
    assert refused.value.code() is Code.UNAVAILABLE


@pytest.mark.parametrize("service", ["compositing", "inference"])
@pytest.mark.parametrize("how", ["plaintext", "no certificate", "a stranger's certificate"])
def test_services_refuse_inside_who_shows_no_certificate(
    tls: Stack, certificates: Certificates, strangers: Certificates, service: str, how: str
) -> None:
    """From this machine, which is on all of Docker's networks."""
    credentials = {
        "plaintext": None,
        "no certificate": certificates.as_anyone(),
        "a stranger's certificate": certificates.trusting_it(strangers, "haproxy"),
    }[how]
    with pytest.raises(grpc.RpcError) as refused:
        ask(tls, service, credentials)
    assert refused.value.code() is Code.UNAVAILABLE


@pytest.mark.parametrize(("service", "name"), [("compositing", "haproxy"), ("inference", "compositing")])
def test_services_know_their_callers_by_name(tls: Stack, certificates: Certificates, service: str, name: str) -> None:
    ask(tls, service, certificates.of(name))
    with pytest.raises(grpc.RpcError) as refused:
        ask(tls, service, certificates.of("client"))
    assert refused.value.code() in {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}


def test_callers_can_be_asked_for_a_certificate_too(tls: Stack, certificates: Certificates, strangers: Certificates) -> None:
    tls.environment["CLIENT_CA"] = "/etc/lipsync/tls/ca.crt"
    tls.up()
    assert composited(tls, certificates.of("client")) == 2
    for credentials in (None, certificates.as_anyone(), certificates.trusting_it(strangers, "client")):
        with pytest.raises(grpc.RpcError) as refused:
            composited(tls, credentials)
        assert refused.value.code() is Code.UNAVAILABLE


def test_browsers_speak_tls_too(tls: Stack, certificates: Certificates, strangers: Certificates) -> None:
    tls.environment["CLIENT_CA"] = ""
    tls.up()
    address = tls.browser_address
    assert asyncio.run(spoken(f"https://{address}", tls.key, certificates.context())) == SPEECH_FRAMES
    for url, context in ((f"http://{address}", None), (f"https://{address}", strangers.context())):
        with pytest.raises(aiohttp.ClientError):
            asyncio.run(spoken(url, tls.key, context))


def test_browsers_can_be_asked_for_a_certificate_too(tls: Stack, certificates: Certificates, strangers: Certificates) -> None:
    tls.environment["CLIENT_CA"] = "/etc/lipsync/tls/ca.crt"
    tls.up()
    url = f"https://{tls.browser_address}"
    assert asyncio.run(spoken(url, tls.key, certificates.context("client"))) == SPEECH_FRAMES
    for context in (certificates.context(), certificates.context("client", of=strangers)):
        with pytest.raises((aiohttp.ClientError, OSError)):
            asyncio.run(spoken(url, tls.key, context))


def test_a_gateway_answers_the_balancer_alone(tls: Stack, certificates: Certificates) -> None:
    """From this machine, which is on all of Docker's networks."""
    address = f"{tls.address_in(tls.one('gateway'), 'front')}:8086"
    known, unknown = certificates.context("haproxy"), certificates.context()
    for context in (known, unknown):
        context.check_hostname = False
    assert asyncio.run(spoken(f"https://{address}", tls.key, known)) == SPEECH_FRAMES
    for url, context in ((f"http://{address}", None), (f"https://{address}", unknown)):
        with pytest.raises((aiohttp.ClientError, OSError)):
            asyncio.run(spoken(url, tls.key, context))


def test_no_container_has_another_ones_key(tls: Stack) -> None:
    kept = {
        service: tls.one(service).exec_run(["ls", "/etc/lipsync/tls"]).output.decode().split()
        for service in ("inference", "compositing", "gateway", "haproxy")
    }
    assert kept == {
        "inference": ["ca.crt", "inference.crt", "inference.key"],
        "compositing": ["ca.crt", "compositing.crt", "compositing.key"],
        "gateway": ["ca.crt", "gateway.crt", "gateway.key"],
        "haproxy": ["ca.crt", "haproxy.pem"],
    }


def ask(stack: Stack, service: str, credentials: grpc.ChannelCredentials | None) -> None:
    """One call to the service itself, past the balancer."""
    network, port = {"compositing": ("front", 50052), "inference": ("inference", 50051)}[service]
    address = f"{stack.address_in(stack.one(service), network)}:{port}"
    options = {"ssl_target_name_override": service} if credentials else {}
    with plain_channel(address, credentials, key=stack.key, **options) as channel:
        if service == "compositing":
            CompositingServiceStub(channel).InferBatchComposite(request(), timeout=CALL_S)
        else:
            InferenceServiceStub(channel).ListModels(ListModelsRequest(), timeout=CALL_S)
