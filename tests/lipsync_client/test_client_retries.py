"""Retries as the client documents them, against a server that fails as scripted."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from lipsync_client import Client, LipsyncError
from lipsync_client.channel import channel_options, is_loopback, service_config

from ..leaving_server import leaving_server

SOUND = np.zeros(640, np.float32)
# Far beyond the 256 KiB up to which gRPC repeats calls by itself.
LARGE_SOUND = np.zeros(1 << 20, np.float32)


def one_batch(sound):
    return lambda client: client.composite("demo", sound, batch_size=1)


REPEATED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize("code", REPEATED, ids=lambda code: code.name)
@pytest.mark.parametrize("sound", [SOUND, LARGE_SOUND], ids=["small", "4 MiB"])
def test_a_lost_server_twice_then_works(face, service, sound, code):
    service.fail(code, times=2)
    batch = face(service.target, one_batch(sound))
    assert batch.frames == [b"0"]
    assert len(service.requests) == 3
    assert all(request == service.requests[0] for request in service.requests)
    assert len({metadata["x-request-id"] for metadata in service.metadata}) == 1


def test_gives_up_after_four_attempts(face, service):
    service.fail(grpc.StatusCode.UNAVAILABLE, "draining", times=10)
    with pytest.raises(LipsyncError, match="UNAVAILABLE: draining"):
        face(service.target, one_batch(SOUND))
    assert len(service.requests) == 4


@pytest.mark.parametrize(
    "code",
    [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, *REPEATED)],
    ids=lambda code: code.name,
)
def test_nothing_else_is_repeated(service, face, code):
    service.fail(code)
    with pytest.raises(LipsyncError) as caught:
        face(service.target, one_batch(SOUND))
    assert caught.value.code == code
    assert len(service.requests) == 1


def test_the_batches_of_a_clip_are_retried_too(face, service):
    service.fail(grpc.StatusCode.UNAVAILABLE, times=2)
    frames = face(service.target, lambda client: client.frames("demo", np.zeros(640 * 10, np.float32), batch_size=3))
    assert frames == [str(k).encode() for k in range(10)]
    assert len(service.requests) == 6


def test_a_client_whose_calls_all_fail_stops_repeating_them(service):
    calls = 60
    service.fail(grpc.StatusCode.UNAVAILABLE, times=4 * calls)
    with Client(service.target) as client, ThreadPoolExecutor(calls) as pool:
        failed = [pool.submit(one_batch(SOUND), client) for _ in range(calls)]
        assert all(isinstance(call.exception(), LipsyncError) for call in failed)
    assert len(service.requests) < 4 * calls / 2


@pytest.mark.timeout(120)  # gRPC would wait for ever
def test_a_server_that_takes_leave_as_it_is_called_is_unavailable(face):
    for _ in range(5):
        with leaving_server() as target, pytest.raises(LipsyncError, match="UNAVAILABLE"):
            face(target, lambda client: client.list_avatars(timeout=10))


@pytest.mark.timeout(120)
def test_so_it_is_to_a_session(face):
    def session(client):
        with client.session("demo") as live:
            return next(live)

    async def awaited(client):
        async with client.session("demo") as live:
            return await anext(live)

    with leaving_server() as target, pytest.raises(LipsyncError, match="UNAVAILABLE"):
        face(target, session if face.name == "blocking" else awaited)


def test_a_client_that_is_closed_sends_nothing_again(service):
    came, go_on = threading.Event(), threading.Event()

    def reply(_, context):
        came.set()
        go_on.wait(60)
        context.abort(grpc.StatusCode.UNAVAILABLE, "scripted")

    service.script.append(reply)
    client = Client(service.target)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(one_batch(SOUND), client)
        came.wait(60)
        client.close()
        go_on.set()
        assert call.exception(60).code is grpc.StatusCode.CANCELLED
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("target", "balanced"),
    [
        ("dns:///compositors:50052", True),
        ("ipv4:10.0.0.1:50052,10.0.0.2:50052", True),
        ("ipv6:[::1]:50052", True),
        ("compositor:50052", False),
        ("unix:/run/compositor.sock", False),
    ],
)
def test_targets_of_several_servers_are_balanced(target, balanced):
    config = service_config(target)
    assert (config.get("loadBalancingConfig") == [{"round_robin": {}}]) is balanced
    assert ("healthCheckConfig" in config) is balanced
    assert json.loads(dict(channel_options(target, max_message_mb=100))["grpc.service_config"]) == config


def test_calls_are_spread_over_every_server(face, service, other_service):
    for _ in range(20):
        frames = face(
            f"ipv4:{service.target},{other_service.target}",
            lambda client: client.frames("demo", np.zeros(640 * 40, np.float32), batch_size=1),
        )
        assert frames == [str(k).encode() for k in range(40)]
        if service.requests and other_service.requests:  # a client may be done before it has connected to both
            return
    pytest.fail("one server was asked for all")


@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        ("localhost:50052", True),
        ("127.0.0.1:50052", True),
        ("[::1]:50052", True),
        ("dns:///localhost:50052", True),
        ("ipv4:127.0.0.1:1", True),
        ("10.0.0.1:50052", False),
        ("compositor.example.com:50052", False),
        ("dns:///localhost.example.com:50052", False),
    ],
)
def test_loopback_is_recognised(target, loopback):
    assert is_loopback(target) is loopback
    assert (("grpc.enable_http_proxy", 0) in channel_options(target, max_message_mb=1)) is loopback
