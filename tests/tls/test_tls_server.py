"""A service with TLS on its port, over real sockets: who gets in, who does not, and what happens when files are renewed."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service_kit.addresses import BindAddress
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.grpc_face import GrpcHost, grpc_service
from service_kit.life import RunningService
from service_kit.listening import StartError
from service_kit.sections import GrpcServerSection, MetricsSection, TlsSection
from service_kit.service_settings import GrpcSettings

from ..virtual_clock import VirtualClock
from .authority import DAY, Authority, Pair, put

Code = grpc.StatusCode
Issue = Callable[..., Pair]
RELOAD_S = 10.0


@asynccontextmanager
async def parts(host: GrpcHost) -> AsyncIterator[Any]:
    async def echo(request: bytes, _: object) -> bytes:
        return request

    async def warm_up() -> None:
        pass

    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    host.server.add_registered_method_handlers("test.Test", handlers)
    yield warm_up


def server(tls: TlsSection, clock: Clock = SYSTEM_CLOCK, **service: Any) -> RunningService[Any]:
    settings = GrpcSettings(
        server=GrpcServerSection(port=BindAddress("127.0.0.1", 0), drain_seconds=0),
        metrics=MetricsSection(enabled=False),
        tls=tls,
    )
    return RunningService(grpc_service("test", ("test.Test",), settings, parts, **service), clock=clock)


def section(pair: Pair, **keys: Any) -> TlsSection:
    return TlsSection(certificate_file=pair.certificate, key_file=pair.key, reload_seconds=RELOAD_S, **keys)


@asynccontextmanager
async def channel(
    running: RunningService[Any], authority: Authority | None, pair: Pair | None = None, name: str | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """On a connection of its own; plaintext without an authority."""
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    target = f"localhost:{running.address.port}"
    if authority is None:
        made = grpc.aio.insecure_channel(target, options=options)
    else:
        options += [("grpc.ssl_target_name_override", name)] if name else []
        own = (pair.key.read_bytes(), pair.certificate.read_bytes()) if pair else (None, None)
        made = grpc.aio.secure_channel(
            target, grpc.ssl_channel_credentials(authority.certificate.read_bytes(), *own), options=options
        )
    async with made:
        yield made


async def echo(on: grpc.aio.Channel) -> Code:
    call = on.unary_unary("/test.Test/Echo")(b"x", timeout=20)
    try:
        assert await call == b"x"
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def answer(running: RunningService[Any], *who: Any) -> Code:
    """The status of one call on a new connection."""
    async with channel(running, *who) as on:
        return await echo(on)


async def looked_at(clock: VirtualClock) -> None:
    """Lets the service look at its files twice, as it must see the same ones both times."""
    for _ in range(2):
        await clock.asleep()
        await clock.advance(RELOAD_S)
    await clock.asleep()


async def test_with_tls_only_tls_gets_in(authority: Authority, stranger: Authority) -> None:
    async with server(section(authority.pair("compositing"))) as running:
        assert await answer(running, authority) is Code.OK
        assert await answer(running, authority, authority.pair("client")) is Code.OK  # presented unasked
        assert await answer(running, authority, None, "compositing") is Code.OK
        assert await answer(running, None) is Code.UNAVAILABLE
        assert await answer(running, stranger) is Code.UNAVAILABLE
        assert await answer(running, authority, None, "elsewhere.example") is Code.UNAVAILABLE


async def test_mutual_tls_asks_for_a_certificate_of_the_authority(
    authority: Authority, stranger: Authority, issue: Issue
) -> None:
    async with server(section(authority.pair("inference"), client_ca_file=authority.certificate)) as running:
        assert await answer(running, authority, authority.pair("compositing")) is Code.OK
        assert await answer(running, None) is Code.UNAVAILABLE
        assert await answer(running, authority) is Code.UNAVAILABLE
        assert await answer(running, authority, stranger.pair("compositing")) is Code.UNAVAILABLE
        assert await answer(running, authority, issue(end=-DAY)) is Code.UNAVAILABLE
        assert await answer(running, authority, issue(start=DAY, end=2 * DAY)) is Code.UNAVAILABLE


async def test_no_version_before_1_2_is_spoken(authority: Authority) -> None:
    """Python's TLS, which is OpenSSL, as the client."""
    async with server(section(authority.pair("inference"))) as running:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        context.set_alpn_protocols(["h2"])

        def handshake() -> str | None:
            with (
                socket.create_connection(("127.0.0.1", running.address.port), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as wrapped,
            ):
                assert wrapped.selected_alpn_protocol() == "h2"
                return wrapped.version()

        assert await asyncio.to_thread(handshake) == "TLSv1.3"
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await asyncio.to_thread(handshake) == "TLSv1.2"
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(handshake)


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        ({"names": "DNS:compositing,DNS:localhost"}, True),
        ({"names": "URI:spiffe://cluster/compositing"}, True),
        ({"names": "", "common_name": "compositing"}, True),
        ({"names": "DNS:other", "common_name": "compositing"}, False),
        ({"names": "DNS:compositing.example"}, False),
        ({"names": "", "common_name": "Compositing"}, False),
    ],
    ids=["dns", "uri", "common-name", "common-name-beside-others", "longer", "other-case"],
)
async def test_only_clients_with_an_allowed_name_are_served(
    authority: Authority, issue: Issue, wanted: dict[str, str], allowed: bool
) -> None:
    names = ("compositing", "spiffe://cluster/compositing")
    tls = section(authority.pair("inference"), client_ca_file=authority.certificate, allowed_client_names=names)
    async with server(tls) as running, channel(running, authority, issue(**wanted)) as on:
        assert await echo(on) is (Code.OK if allowed else Code.PERMISSION_DENIED)
        health: Any = health_pb2_grpc.HealthStub(on)
        reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_refusal_says_which_names_were_seen(authority: Authority, issue: Issue) -> None:
    tls = section(authority.pair("inference"), client_ca_file=authority.certificate, allowed_client_names=("compositing",))
    async with server(tls) as running, channel(running, authority, issue(names="DNS:one,DNS:two")) as on:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await on.unary_unary("/test.Test/Echo")(b"x", timeout=20)
        assert caught.value.details() == ("this client's certificate has no name that may call this service; its names: one, two")


@pytest.fixture
def in_use(authority: Authority, tmp_path: Path) -> Authority:
    """A copy of the certificates of `authority`, to be replaced."""
    shutil.copytree(authority.folder, tmp_path / "in-use")
    return Authority(tmp_path / "in-use")


async def test_renewed_files_serve_new_connections_and_old_ones_go_on(
    authority: Authority, stranger: Authority, in_use: Authority
) -> None:
    pair = in_use.pair("inference")
    tls = section(pair, client_ca_file=in_use.certificate)
    old, new = (authority, authority.pair("client")), (stranger, stranger.pair("client"))
    clock = VirtualClock()
    async with server(tls, clock) as running, channel(running, *old) as lasting:
        assert await echo(lasting) is Code.OK
        assert await answer(running, *new) is Code.UNAVAILABLE
        for name in ("inference.crt", "inference.key", "ca.crt"):
            put(stranger.folder / name, in_use.folder / name)
        await looked_at(clock)
        assert await answer(running, *new) is Code.OK
        assert await answer(running, *old) is Code.UNAVAILABLE
        assert await answer(running, stranger, authority.pair("client")) is Code.UNAVAILABLE
        assert await echo(lasting) is Code.OK
        for name in ("inference.crt", "inference.key", "ca.crt"):
            put(authority.folder / name, in_use.folder / name)
        await looked_at(clock)
        assert await answer(running, *old) is Code.OK


async def test_the_expiry_of_the_certificate_in_use_is_a_metric(authority: Authority, in_use: Authority, issue: Issue) -> None:
    pair, later = in_use.pair("inference"), issue(end=3 * DAY)
    clock = VirtualClock()
    async with server(section(pair), clock) as running:

        def expiry() -> float | None:
            labels = {"side": "server"}
            return running.metrics.registry.get_sample_value("lipsync_tls_certificate_expiry_timestamp_seconds", labels)

        before = expiry()
        put(later.key, pair.key)
        put(later.certificate, pair.certificate)
        await looked_at(clock)
        assert expiry() != before
        assert await answer(running, authority) is Code.OK


@pytest.mark.parametrize("damage", ["garbage", "missing", "half", "expired"])
async def test_files_that_cannot_be_used_leave_the_old_ones_in_force(
    authority: Authority, stranger: Authority, in_use: Authority, issue: Issue, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    pair = in_use.pair("inference")
    clock = VirtualClock()
    async with server(section(pair), clock) as running:
        if damage == "garbage":
            pair.key.write_text("no key")
        elif damage == "missing":
            pair.certificate.unlink()
        elif damage == "half":
            put(stranger.pair("inference").certificate, pair.certificate)
        else:
            expired = issue(end=-DAY)
            put(expired.key, pair.key)
            put(expired.certificate, pair.certificate)
        await looked_at(clock)
        assert "cannot be used, so what was read before stays: tls." in caplog.text
        assert await answer(running, authority) is Code.OK
        for name in ("inference.key", "inference.crt"):
            put(stranger.folder / name, in_use.folder / name)
        await looked_at(clock)
        assert await answer(running, stranger) is Code.OK
    errors = [record for record in caplog.records if record.levelno == logging.ERROR and record.name.startswith("service_kit")]
    assert len(errors) == 1


async def test_a_link_that_is_turned_to_other_files_is_followed(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    """Kubernetes renews a secret so: the files are links through one link to a folder."""
    (tmp_path / "..data").symlink_to(authority.folder)
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(Path("..data") / name.replace("tls", "inference"))
    clock = VirtualClock()
    async with server(section(Pair(tmp_path / "tls.crt", tmp_path / "tls.key")), clock) as running:
        assert await answer(running, authority) is Code.OK
        (tmp_path / "..data_tmp").symlink_to(stranger.folder)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        await looked_at(clock)
        assert await answer(running, stranger) is Code.OK


@pytest.mark.parametrize(
    ("keys", "problems"),
    [
        (
            {"enabled": True},
            [
                "tls.certificate_file: not given, and a server with TLS needs it",
                "tls.key_file: not given, and a server with TLS needs it",
            ],
        ),
        (
            {"client_ca_file": Path("/none/ca.crt"), "key_file": Path("/none/key")},
            [
                "tls.certificate_file: not given, and a server with TLS needs it",
                "tls.client_ca_file: /none/ca.crt cannot be read: No such file or directory",
            ],
        ),
        (
            {"certificate_file": Path("/none/a"), "key_file": Path("/none/b"), "allowed_client_names": ("x",)},
            [
                "tls.client_ca_file: not given, and without it no client has the names to allow",
                "tls.certificate_file: /none/a cannot be read: No such file or directory",
                "tls.key_file: /none/b cannot be read: No such file or directory",
            ],
        ),
    ],
    ids=["nothing", "no-certificate", "all-at-once"],
)
async def test_a_start_that_cannot_be_names_every_problem(keys: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(StartError) as caught:
        await server(TlsSection(**keys), problems=lambda: ["and: one of the service's own"]).startup()
    assert str(caught.value).split("; ") == [*problems, "and: one of the service's own"]


async def test_switched_off_it_is_plaintext_and_its_files_do_not_matter() -> None:
    async with server(TlsSection(enabled=False, certificate_file=Path("/none"))) as running:
        assert await answer(running, None) is Code.OK


@pytest.mark.parametrize("keys", [{}, {"reload_seconds": 5}, {"enabled": False, "client_ca_file": Path("x")}])
def test_off(keys: dict[str, Any]) -> None:
    assert not TlsSection(**keys).is_on


@pytest.mark.parametrize("keys", [{"enabled": True}, {"key_file": Path("x")}, {"allowed_client_names": ("x",)}])
def test_on(keys: dict[str, Any]) -> None:
    assert TlsSection(**keys).is_on
