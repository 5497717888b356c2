"""Callers of gRPC: who gets in, what each may do, and what a revoked one loses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from compositing_service.service import SCOPES as COMPOSITING
from inference_service.service import SCOPES as INFERENCE
from lipsync_client import AsyncClient, Client, LipsyncError, Session
from monolithic_service.optimized.servicer import SCOPES as OPTIMIZED
from monolithic_service.servicer import SCOPES as MONOLITHIC
from service_kit.callers.caller import Scope
from service_kit.callers.keys import new_key
from shared_proto import compositing_pb2, inference_pb2, monolithic_pb2, optimized_lipsyncsrv_pb2

from ..end_to_end.processes import until
from .conftest import CALL_S, Guarded
from .session_frames import next_frame

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
SCOPES = COMPOSITING | INFERENCE | MONOLITHIC | OPTIMIZED
PROTO_FILES = (compositing_pb2, inference_pb2, monolithic_pb2, optimized_lipsyncsrv_pb2)
SERVING = {"healthy", "inference_server_healthy"}
"""The fields of health that strangers are told."""
Metadata = Sequence[tuple[str, str | bytes]]


def bearer(key: str) -> Metadata:
    return (("authorization", f"Bearer {key}"),)


def status(channel: grpc.Channel, path: str, metadata: Metadata = (), request: bytes = b"") -> grpc.StatusCode:
    """Returns the status of a call with an empty message, which no method but a list takes as it is."""
    call = channel.stream_stream(path, None, None)(iter([request]), metadata=metadata, timeout=CALL_S)
    with suppress(grpc.RpcError):
        list(call)
    return call.code()


@contextmanager
def client(guarded: Guarded, key: str) -> Iterator[Client]:
    with Client(guarded.compositing.address, api_key=key) as made:
        yield made


def refused(error: pytest.ExceptionInfo[LipsyncError]) -> grpc.StatusCode:
    return error.value.code


def test_every_method_has_its_scope() -> None:
    services = [service for file in PROTO_FILES for service in file.DESCRIPTOR.services_by_name.values()]
    assert set(SCOPES) == {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}


@pytest.mark.parametrize("path", SCOPES)
def test_a_method_is_for_those_who_have_its_scope(guarded: Guarded, keys: dict[str, str], path: str) -> None:
    needed = SCOPES[path]
    without = status(guarded.channel, path)
    assert without is (grpc.StatusCode.OK if needed is None else UNAUTHENTICATED)
    for name, scopes in {"reader": {Scope.READ}, "operator": {Scope.ADMIN}, "alice": {Scope.INFER, Scope.READ}}.items():
        code = status(guarded.channel, path, bearer(keys[name]))
        let_in = needed is None or needed in scopes
        assert (code not in {UNAUTHENTICATED, DENIED}) is let_in, (name, code)
        assert let_in or code is DENIED


def test_health_and_reflection_are_open(guarded: Guarded) -> None:
    assert health_pb2_grpc.HealthStub(guarded.channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_S).status == 1
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    (reply,) = stub.ServerReflectionInfo(iter([asked]), timeout=CALL_S)
    assert "compositing.CompositingService" in [each.name for each in reply.list_services_response.service]


@pytest.mark.parametrize("path", [path for path, scope in SCOPES.items() if scope is None])
def test_health_tells_strangers_no_more_than_that(guarded: Guarded, keys: dict[str, str], path: str) -> None:
    [method] = [
        method
        for file in PROTO_FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if f"/{service.full_name}/{method.name}" == path
    ]
    reply_type = message_factory.GetMessageClass(method.output_type)
    call = guarded.channel.unary_unary(path, None, reply_type.FromString)
    known = call(b"", metadata=bearer(keys["reader"]), timeout=CALL_S)
    assert {field.name for field, _ in known.ListFields()} - SERVING
    for metadata in ((), bearer("nonsense"), bearer(new_key().text)):
        told = {field.name for field, _ in call(b"", metadata=metadata, timeout=CALL_S).ListFields()}
        assert "healthy" in told
        assert told <= SERVING


@pytest.mark.parametrize("form", ["authorization: Bearer", "authorization: bearer", "x-api-key"])
def test_a_key_may_come_in_two_headers(guarded: Guarded, keys: dict[str, str], form: str) -> None:
    key, colon, scheme = form.partition(": ")
    value = f"{scheme} {keys['alice']}" if colon else keys["alice"]
    assert status(guarded.channel, "/compositing.CompositingService/ListModels", ((key, value),)) is grpc.StatusCode.OK


def test_what_is_no_good_credential_is_refused(guarded: Guarded, keys: dict[str, str]) -> None:
    good = keys["alice"]
    attempts: list[Metadata] = [
        bearer(""),
        bearer(good[:-1]),
        bearer(good.swapcase()),
        bearer(new_key().text),
        bearer(f"{good} "),
        bearer("ls_live_" + "A" * 3000),
        bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9."),
        (("authorization", f"Basic {good}"),),
        (("x-api-key", f"Bearer {good}"),),
        (*bearer(good), *bearer(good)),
        (*bearer(good), ("x-api-key", good)),
        (("x-api-key", "nonsense"), *bearer(good)),
        (("x-api-key-bin", good.encode()),),
        (("x-lipsync-caller", "alice"),),
    ]
    for metadata in attempts:
        assert status(guarded.channel, "/compositing.CompositingService/ListModels", metadata) is UNAUTHENTICATED, metadata


def test_a_message_of_a_stranger_is_not_read(guarded: Guarded, keys: dict[str, str]) -> None:
    """One over the limit is not even found to be so: its status tells who is asked first."""
    huge, path = bytes(120 << 20), "/compositing.CompositingService/InferBatchComposite"
    with grpc.insecure_channel(guarded.compositing.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        assert status(channel, path, (), huge) is UNAUTHENTICATED
        assert status(channel, path, bearer(keys["reader"]), huge) is DENIED
        assert status(channel, path, bearer(keys["alice"]), huge) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_caller_uses_the_avatars_that_it_may(guarded: Guarded, keys: dict[str, str]) -> None:
    sound = np.zeros(640, np.float32)
    with client(guarded, keys["guest"]) as guest, client(guarded, keys["alice"]) as alice:
        assert [avatar.id for avatar in guest.list_avatars()] == ["other", "small"]
        assert [avatar.id for avatar in alice.list_avatars()] == ["other", "private", "small"]
        assert len(guest.composite("small", sound, batch_size=1).frames) == 1
        for avatar in ("private", "no-such-avatar"):
            with pytest.raises(LipsyncError, match="may not use this avatar") as caught:
                guest.composite(avatar, sound, batch_size=1)
            assert refused(caught) is DENIED
            with pytest.raises(LipsyncError) as caught, guest.session(avatar) as session:
                next(iter(session))
            assert refused(caught) is DENIED


def test_a_session_shows_no_avatar_that_its_caller_may_not_use(guarded: Guarded, keys: dict[str, str]) -> None:
    with client(guarded, keys["guest"]) as guest, guest.session("small") as session:
        session.switch("private")
        failed = next(event for event in session if type(event).__name__ == "SwitchFailed")
        assert failed.code is DENIED


@contextmanager
def running_session(guarded: Guarded, key: str) -> Iterator[tuple[Session, Iterator[object]]]:
    """One that sends idle frames for as long as it lasts."""
    with client(guarded, key) as made, made.session("small") as session:
        events = iter(session)
        next_frame(events)
        yield session, events


def test_callers_see_their_own_sessions_and_operators_all(guarded: Guarded, keys: dict[str, str]) -> None:
    with running_session(guarded, keys["alice"]) as (hers, _), running_session(guarded, keys["bob"]) as (his, _):
        seen = {}
        for name in ("alice", "bob", "reader"):
            with client(guarded, keys[name]) as made:
                seen[name] = {session.id for session in made.list_sessions()}
        assert seen == {"alice": {hers.session_id}, "bob": {his.session_id}, "reader": set()}
        with client(guarded, keys["alice"]) as alice, pytest.raises(LipsyncError) as caught:
            alice.end_session(his.session_id)
        assert refused(caught) is DENIED
        operator = guarded.key("operator-who-reads", "read", "admin")
        until(lambda: known(guarded, operator.text))
        with client(guarded, operator.text) as made:
            assert {hers.session_id, his.session_id} <= {session.id for session in made.list_sessions()}
            assert made.end_session(his.session_id) == 1


def known(guarded: Guarded, key: str) -> bool:
    return status(guarded.channel, "/compositing.CompositingService/ListModels", bearer(key)) is grpc.StatusCode.OK


def ended_with(events: Iterator[object]) -> grpc.StatusCode:
    with pytest.raises(LipsyncError) as caught:
        for _ in events:
            pass
    return caught.value.code


@pytest.mark.parametrize("as_a_whole", [False, True], ids=["key", "caller"])
def test_the_sessions_of_a_revoked_caller_end_and_no_others(guarded: Guarded, keys: dict[str, str], as_a_whole: bool) -> None:
    name = "carol" if as_a_whole else "dave"
    key, successor = guarded.key(name, "infer", "read"), guarded.key(name, "infer", "read")
    until(lambda: known(guarded, successor.text))
    with (
        running_session(guarded, key.text) as (_, events),
        running_session(guarded, successor.text) as (_, next_events),
        running_session(guarded, keys["alice"]) as (_, others),
    ):
        if as_a_whole:
            guarded.revoke_caller(name)
        else:
            guarded.revoke(key)
        assert ended_with(events) is UNAUTHENTICATED
        assert not known(guarded, key.text)
        if as_a_whole:
            assert ended_with(next_events) is UNAUTHENTICATED
        else:
            next_frame(next_events)
            assert known(guarded, successor.text)
        next_frame(others)


def test_a_session_outlives_its_key(guarded: Guarded) -> None:
    key = guarded.key("erin", "infer", "read")
    until(lambda: known(guarded, key.text))
    with running_session(guarded, key.text) as (_, events):
        guarded.expire(key)
        until(lambda: not known(guarded, key.text))
        began = time.monotonic()
        while time.monotonic() < began + 1:
            next_frame(events)


async def test_a_refusal_arrives_however_busy_the_client_is(guarded: Guarded) -> None:
    """gRPC drops the status of a stream that ends while its first message is written."""

    async def refused_sessions() -> set[grpc.StatusCode]:
        codes = set()
        async with AsyncClient(guarded.compositing.address, api_key=new_key().text) as made:
            for _ in range(25):
                try:
                    async with made.session("small") as session:
                        await anext(aiter(session))
                except LipsyncError as error:
                    codes.add(error.code)
        return codes

    assert await asyncio.gather(*(refused_sessions() for _ in range(6))) == [{UNAUTHENTICATED}] * 6


def test_a_gateway_calls_in_the_name_of_others(guarded: Guarded, keys: dict[str, str]) -> None:
    path = "/compositing.CompositingService/ListModels"
    named = (("x-lipsync-caller", "zoe"),)
    assert status(guarded.channel, path, (*bearer(keys["gateway"]), *named)) is grpc.StatusCode.OK
    assert status(guarded.channel, path, (*bearer(keys["alice"]), *named)) is DENIED
    with client(guarded, keys["gateway"]) as made:
        zoe = made.with_metadata(more=named)
        with zoe.session("small") as session:
            next(iter(session))
            assert {each.id for each in zoe.list_sessions()} == {session.session_id}
            until(lambda: "caller=zoe" in guarded.compositing.log.read_text())
