"""Both faces of the client against servers with TLS: what connects, and what is said when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from lipsync_client import AsyncClient, Client, Health, LipsyncError, Started, TlsOptions
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceServicer, add_CompositingServiceServicer_to_server

from .. import grpc_servers
from .authority import DAY, Authority, Pair

Issue = Callable[..., Pair]
Ask = Callable[[str, TlsOptions | None], Health]


class Service(CompositingServiceServicer):
    """Its version is the token that a call came with."""

    def Health(self, request, context):
        token = str(dict(context.invocation_metadata()).get("authorization", ""))
        return pb.HealthResponse(healthy=True, version=token)

    def StreamComposite(self, request_iterator, context):
        token = str(dict(context.invocation_metadata()).get("authorization", ""))
        yield pb.SessionEvent(started=pb.SessionStarted(server_version=token))


def serving(pair: Pair | None, client_ca: Path | None = None) -> AbstractContextManager[str]:
    """gRPC's own server: it serves an expired certificate as well. Plaintext without a pair."""
    credentials = None
    if pair:
        credentials = grpc.ssl_server_credentials(
            [(pair.key.read_bytes(), pair.certificate.read_bytes())],
            client_ca.read_bytes() if client_ca else None,
            require_client_auth=client_ca is not None,
        )
    return grpc_servers.serving(add_CompositingServiceServicer_to_server, Service(), credentials=credentials)


def blocking(target: str, tls: TlsOptions | None) -> Health:
    with Client(target, tls=tls) as client:
        return client.health(timeout=20)


def with_asyncio(target: str, tls: TlsOptions | None) -> Health:
    async def ask() -> Health:
        async with AsyncClient(target, tls=tls) as client:
            return await client.health(timeout=20)

    return asyncio.run(ask())


@pytest.fixture(params=[blocking, with_asyncio], ids=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


def options(authority: Authority, pair: Pair | None = None, server_name: str | None = None) -> TlsOptions:
    own = (pair.certificate, pair.key) if pair else (None, None)
    return TlsOptions(authority.certificate, *own, server_name)


def refused(ask: Ask, target: str, tls: TlsOptions | None) -> str:
    with pytest.raises(LipsyncError) as caught:
        ask(target, tls)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    return caught.value.message


def test_tls_and_mutual_tls(ask: Ask, authority: Authority) -> None:
    with serving(authority.pair("compositing")) as target:
        assert ask(target, options(authority)).healthy
        assert ask(target, options(authority, server_name="compositing")).healthy
    with serving(authority.pair("compositing"), authority.certificate) as target:
        assert ask(target, options(authority, authority.pair("client"))).healthy


def test_what_the_server_wants_is_guessed(ask: Ask, authority: Authority, stranger: Authority) -> None:
    closed = "the server closed the connection: it may require TLS, or a client certificate that it trusts (failed to connect"
    with serving(authority.pair("compositing"), authority.certificate) as target:
        assert refused(ask, target, None).startswith(closed)
        assert refused(ask, target, options(authority)).startswith(closed)
        assert refused(ask, target, options(authority, stranger.pair("client"))).startswith(closed)
    with serving(None) as target:
        assert refused(ask, target, options(authority)).startswith("the server does not speak TLS at this address (")


def test_what_is_wrong_with_the_certificate_of_the_server_is_said(
    ask: Ask, authority: Authority, stranger: Authority, issue: Issue
) -> None:
    with serving(authority.pair("compositing")) as target:
        untrusted = "the server's certificate is not signed by an authority that this client trusts ("
        assert refused(ask, target, options(stranger)).startswith(untrusted)
        assert refused(ask, target, TlsOptions()).startswith(untrusted)
        other_name = "the server's certificate does not have the name by which it was called ("
        assert refused(ask, target, options(authority, server_name="other.example")).startswith(other_name)
    with serving(issue(end=-DAY)) as target:
        assert refused(ask, target, options(authority)).startswith("the server's certificate has expired (")
    with serving(issue(start=DAY, end=2 * DAY)) as target:
        assert refused(ask, target, options(authority)).startswith("the server's certificate is not valid yet: ")


def test_behind_several_addresses_it_is_said_too(ask: Ask, authority: Authority) -> None:
    with serving(authority.pair("compositing")) as target:
        assert refused(ask, f"ipv4:{target}", None).startswith("the server closed the connection: ")


def test_an_address_at_which_nothing_listens_is_said_to_be_one(ask: Ask) -> None:
    with serving(None) as target:
        pass
    assert refused(ask, target, None).startswith("nothing listens at this address: does the server run? (failed to connect")


def test_other_failures_keep_their_words(ask: Ask, tmp_path: Path) -> None:
    assert refused(ask, f"unix:{tmp_path / 'nowhere'}", None).startswith("failed to connect to all addresses")


def test_files_that_cannot_be_used_are_told_before_anything_is_sent(
    ask: Ask, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    pair, none = authority.pair("client"), tmp_path / "none"
    damaged = tmp_path / "damaged"
    damaged.write_text("no PEM")
    for tls, says in (
        (TlsOptions(none, none, none), f"{none}: No such file or directory; {none}: No such file or directory"),
        (TlsOptions(damaged), f"{damaged} holds no certificate of an authority in PEM form"),
        (TlsOptions(certificate_file=pair.certificate), "a certificate and its key go together, but only one of them is given"),
        (
            TlsOptions(certificate_file=pair.certificate, key_file=stranger.pair("client").key),
            f"{pair.certificate} and {stranger.folder}/client.key are not a certificate and its key in PEM form without a "
            "password: key values mismatch",
        ),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are looked at below
            ask("localhost:1", tls)
        assert str(caught.value) == says


def test_call_credentials_travel_with_calls_and_sessions(authority: Authority) -> None:
    async def with_asyncio(target: str, tls: TlsOptions) -> tuple[str, str]:
        async with AsyncClient(target, tls=tls) as client:
            own = client.with_metadata(credentials=grpc.access_token_call_credentials("for-asyncio"))
            async with own.session("anna") as session:
                started = await anext(session)
            assert isinstance(started, Started)
            return (await own.health(timeout=20)).version, started.server_version

    with serving(authority.pair("compositing")) as target:
        tls = options(authority)
        with Client(target, tls=tls) as client:
            own = client.with_metadata(credentials=grpc.access_token_call_credentials("for-threads"))
            assert own.health(timeout=20).version == "Bearer for-threads"
            assert client.health(timeout=20).version == ""
            with own.session("anna") as session:
                started = next(session)
            assert isinstance(started, Started)
            assert started.server_version == "Bearer for-threads"
        assert asyncio.run(with_asyncio(target, tls)) == ("Bearer for-asyncio", "Bearer for-asyncio")
