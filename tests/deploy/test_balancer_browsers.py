"""Browsers through each balancer: WebSockets are shared out, outlive silence, and find another gateway when theirs ends."""

from __future__ import annotations

import asyncio
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.end_to_end.avatars import write_avatar
from tests.end_to_end.processes import Service, free_port, running, until
from tests.gateway_webrtc.watching import new_connection, offer_of

from .balancers import Balancer, balancing, compositors, gateways

BALANCERS = ["nginx", "envoy", "haproxy", "front"]
PATIENCE_S = 60
SOCKETS = 8
OFFERS = 3
# In place of the files' 90 s and the gateways' 20 s.
SILENCE_S, PING_S = 6, 2
SETTINGS = (f"sockets.ping_seconds={PING_S}", "server.drain_seconds=2")
# Begins a session that says nothing by itself.
QUIET = {"config": {"model_id": "small", "idle": "IDLE_NONE"}}


@pytest.fixture(scope="module")
def compositing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("browsed")
    write_avatar(root, "small")
    with compositors(root, root, 1) as (one,):
        yield one


def impatient(balancer: Balancer, repository: Path, folder: Path) -> Path:
    """A copy of the balancers' files, whose limit of a WebSocket's silence is a few seconds."""
    copy = folder / "deploy"
    for file in (repository / "deploy").rglob("*"):
        if file.suffix in {".cfg", ".conf", ".yaml"}:
            place = copy / file.relative_to(repository / "deploy")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(file.read_text().replace("90s", f"{SILENCE_S}s"))
    return folder


async def opened(http: aiohttp.ClientSession, address: str) -> aiohttp.ClientWebSocketResponse:
    """A socket whose session has started."""
    socket, _ = await begun(http, address)
    return socket


async def begun(http: aiohttp.ClientSession, address: str) -> tuple[aiohttp.ClientWebSocketResponse, str]:
    """The same, and the session's secret; the balancer may still be starting, or asking gateways whether they are ready."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                socket = await http.ws_connect(f"http://{address}/ws")
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
                continue
            await socket.send_json(QUIET)
            started = await socket.receive_json()
            return socket, started["started"]["secret"]


def is_ready(gateway: Service) -> bool:
    """True once the gateway reaches a compositing service."""
    try:
        with urllib.request.urlopen(f"http://{gateway.address}/readyz", timeout=PATIENCE_S):
            return True
    except urllib.error.HTTPError:
        return False


async def running_sessions(gateways: list[Service]) -> list[float]:
    return [await asyncio.to_thread(gateway.metric, "lipsync_running_calls") for gateway in gateways]


@pytest.mark.slow
@pytest.mark.parametrize("name", BALANCERS)
async def test_sockets_are_shared_out_and_outlive_silence_and_a_gateway(
    name: str, compositing: Service, repository: Path, tmp_path: Path
) -> None:
    balancer = Balancer(name)
    files = impatient(balancer, repository, tmp_path)
    with (
        gateways(
            compositing, tmp_path, 2, f"sockets.ping_seconds={PING_S}", "server.drain_seconds=2", "server.grace_seconds=3"
        ) as both,
        balancing(balancer, files, tmp_path, both, "gateway") as address,
    ):
        until(lambda: all(is_ready(gateway) for gateway in both))
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
            for _ in range(SOCKETS):
                tasks.create_task(read_on(await opened(http, address)))
            shares = await running_sessions(both)
            assert sum(shares) == SOCKETS
            assert min(shares) >= (1 if name == "envoy" else SOCKETS // 2)  # Envoy compares two that it draws by chance
            await asyncio.sleep(2 * SILENCE_S)  # what is tested is that nothing happens for so long
            assert await running_sessions(both) == shares
            both[0].signal(signal.SIGTERM)
            assert await asyncio.to_thread(both[0].process.wait, PATIENCE_S) == 0
            latest = await opened(http, address)
            assert await running_sessions(both[1:]) == [shares[1] + 1]
            await latest.close()
            both[1].signal(signal.SIGTERM)


async def read_on(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Reads, which answers pings, until the socket ends. There are no frames while nobody speaks."""
    async for message in socket:
        assert message.type is aiohttp.WSMsgType.TEXT


@pytest.mark.slow
@pytest.mark.parametrize("name", BALANCERS)
async def test_limits_of_one_address_are_those_of_the_browsers(
    name: str, compositing: Service, repository: Path, tmp_path: Path
) -> None:
    """Whatever a browser says of itself."""
    limits = ("guard.trusted_proxies=[127.0.0.1/32]", "guard.max_sockets_per_address=1")
    with (
        gateways(compositing, tmp_path, 1, *limits) as one,
        balancing(Balancer(name), repository, tmp_path, one, "gateway") as address,
    ):
        until(lambda: is_ready(one[0]))
        async with AsyncExitStack() as stack:
            first, second = [await stack.enter_async_context(browser(f"127.0.0.{host}")) for host in (2, 3)]
            sockets = [await opened(first, address), await opened(second, address)]
            for claim in ({}, {"X-Forwarded-For": "127.0.0.9"}):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await first.ws_connect(f"http://{address}/ws", headers=claim)
                assert refused.value.status == 429
            for socket in sockets:
                assert await socket.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", BALANCERS)
async def test_viewers_over_webrtc_reach_the_gateway_that_holds_them(
    name: str, compositing: Service, repository: Path, tmp_path: Path
) -> None:
    """Though the balancer sends each request to any: it knows nothing of them."""
    ports = [free_port(), free_port()]
    told = f"server.gateways={[f'127.0.0.1:{port}' for port in ports]}"
    upstream = f"compositing_server.url={compositing.address}"
    connection = new_connection()
    offer = await offer_of(connection)
    with ExitStack() as stack:
        both = [
            stack.enter_context(running("gateway", upstream, f"server.port=127.0.0.1:{port}", told, log=tmp_path / str(port)))
            for port in ports
        ]
        address = stack.enter_context(balancing(Balancer(name), repository, tmp_path, both, "gateway"))
        until(lambda: all(is_ready(gateway) for gateway in both))
        async with aiohttp.ClientSession(f"http://{address}") as http:
            socket, secret = await begun(http, address)
            viewers = []
            for path in ["/api/avatars/small/whep", f"/api/sessions/{secret}/whep"] * OFFERS:
                async with http.post(path, data=offer, headers={"Content-Type": "application/sdp"}) as answer:
                    assert answer.status == 201, await answer.text()
                    viewers.append(answer.headers["Location"])
            for viewer in viewers:
                async with http.delete(viewer) as answer:
                    assert answer.status == 200
            await socket.close()
    await connection.close()


def browser(host: str) -> aiohttp.ClientSession:
    """A browser at an address of this machine's own."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(host, 0)))
