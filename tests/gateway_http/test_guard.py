"""The gateway as an attacker sees it. No compositing service is there, so whatever asks one gets 503."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

import aiohttp
import pytest

from gateway_service.guard.headers import SECURITY_HEADERS
from service_kit.life import RunningService

from .conftest import calling, running_gateway
from .raw import Answer, connected, request, sent

NOBODY = "127.0.0.1:1"
WEBSOCKET = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def assert_secure(answer: Answer) -> None:
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers.get(name.lower()) == value, (name, answer)


async def first_lines(gateway: RunningService, *lines: str, source: str = "127.0.0.1") -> int:
    """The status of a WebSocket's handshake."""
    reader, writer = await connected(gateway, source=source)
    given = "".join(f"{line}\r\n" for line in ("Host: here:80", *WEBSOCKET, *lines))
    writer.write(f"GET /ws HTTP/1.1\r\n{given}\r\n".encode())
    status = int((await asyncio.wait_for(reader.readline(), 30)).split()[1])
    writer.close()
    return status


IMPOSSIBLE_IDS = [
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%2f..%2fetc%2fpasswd",
    "..%5c..%5cwindows",
    "%00",
    "demo%00.jpg",
    "demo%0d%0aX-Evil:%20yes",
    "demo%20",
    ".demo",
    "-demo",
    "%c3%a9",
    "%ff%fe",
    "%",
    "%zz",
    "a" * 65,
    "a" * 1900,
    "a" * 5000,
    "a" * 10_000,
    "{avatar}",
    "demo;still",
    "<script>alert(1)</script>".replace("/", "%2f"),
]


async def test_an_id_that_no_avatar_has_reaches_no_service(bare: RunningService) -> None:
    for avatar in IMPOSSIBLE_IDS:
        for file in ("still.jpg", "stream.mjpeg"):
            answer = await request(bare, path=f"/api/avatars/{avatar}/{file}")
            assert answer.status in {400, 404, 414}, avatar
            assert_secure(answer)
            problem = answer.problem
            assert "x-evil" not in answer.headers
            assert "<script" not in problem["detail"]
            assert "etc" not in problem["detail"]


NO_PLACES = [
    "/page/../routes.py",
    "/page/%2e%2e/routes.py",
    "/page/..%2froutes.py",
    "//etc/passwd",
    "/api/avatars/../../etc/passwd",
    "/api/sessions//stream.mjpeg",
    "/api/sessions/a/b/stream.mjpeg",
    "/%00",
    "/api/avatars/demo/still.jpg/",
    "*",
]


async def test_strangers_are_not_told_where_the_services_are(bare: RunningService) -> None:
    for path in ("/readyz", "/health", "/api/avatars", "/api/avatars/small/still.jpg", "/api/avatars/small/stream.mjpeg"):
        answer = await request(bare, path=path)
        assert answer.status == 503, path
        assert b"127.0.0.1" not in answer.body, answer


async def test_other_places_have_nothing(bare: RunningService) -> None:
    for path in NO_PLACES:
        answer = await request(bare, path=path)
        assert answer.status in {400, 404}, path
        assert_secure(answer)
        assert answer.problem["code"] in {"NOT_FOUND", "INVALID_ARGUMENT"}


HEADS: list[tuple[bytes, set[int]]] = [
    (b"".join(b"X-%d: y\r\n" % number for number in range(5000)), {400}),
    (b"X-Long: " + b"y" * 100_000 + b"\r\n", {400}),
    (b"Cookie: " + b"y" * 8000 + b"\r\n", {200}),
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", {400}),
    (b"Content-Length: -1\r\n", {400}),
    (b"Content-Length: 1\r\nContent-Length: 2\r\n", {400}),
    (b"Host: there\r\n", {200, 400}),
    (b"Bad Header: x\r\n", {400}),
    (b": x\r\n", {400}),
    (b"X: a\x00b\r\n", {400}),
    (b"Expect: the unexpected\r\n", {417}),
    (b"Range: bytes=0-18446744073709551616\r\n", {200}),
]


async def test_heads_that_are_attacks_are_refused_as_such(bare: RunningService) -> None:
    for head, statuses in HEADS:
        answer = await sent(bare, b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n" + head + b"\r\n")
        assert answer.status in statuses, head[:100]
        assert_secure(answer)
        if answer.status == 400:
            assert answer.problem["code"] == "INVALID_ARGUMENT"


GARBAGE = [
    b"\r\n\r\nGARBAGE\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512),
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
    b"G\x00T / HTTP/1.1\r\n\r\n",
]


async def test_what_is_no_http_is_told_so(bare: RunningService) -> None:
    for data in GARBAGE:
        answer = await sent(bare, data)
        assert answer.status == 400, data[:100]
        assert_secure(answer)
        assert answer.problem["detail"] == "the request is not well-formed HTTP"


async def test_only_reading_is_allowed(bare: RunningService) -> None:
    for path in ("/api/avatars", "/api/avatars/demo/still.jpg", "/api/openapi.json", "/healthz", "/"):
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"):
            answer = await request(bare, method=method, path=path)
            assert answer.status in {400, 405}, method
            assert_secure(answer)
            assert answer.problem["code"] in {"UNIMPLEMENTED", "INVALID_ARGUMENT"}
        options = await request(bare, method="OPTIONS", path=path)
        assert (options.status, options.body) == (204, b"")
        assert set(options.headers["allow"].split(",")) == {"GET", "HEAD"}


async def test_a_body_of_any_size_is_not_waited_for(bare: RunningService) -> None:
    reader, writer = await connected(bare)
    writer.write(b"POST /api/avatars HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000000000\r\n\r\n" + bytes(100_000))
    assert b" 405 " in await asyncio.wait_for(reader.readline(), 30)
    writer.close()


async def test_head_tells_what_get_would_without_the_body(bare: RunningService) -> None:
    for path in ("/healthz", "/api/openapi.json", "/", "/api/avatars/demo/stream.mjpeg", "/page/style.css"):
        answer = await request(bare, method="HEAD", path=path)
        assert (answer.status, answer.body) == (200, b""), path
        assert_secure(answer)


async def test_pages_of_other_hosts_open_no_session(bare: RunningService) -> None:
    for origin in ("http://evil.org", "null", "http://here:80.evil.org", "https://here:81", ""):
        assert await first_lines(bare, f"Origin: {origin}") == 403, origin
    for origin in ("http://here", "http://here:80"):
        assert await first_lines(bare, f"Origin: {origin}") == 101, origin
    assert await first_lines(bare) == 101
    assert (await request(bare, "Origin: http://evil.org", method="POST", path="/api/avatars")).status == 403


async def test_listed_origins_and_named_hosts() -> None:
    settings = 'guard.allowed_origins=["https://app.example.com"]', 'guard.allowed_hosts=["here"]'
    async with running_gateway(NOBODY, *settings) as gateway:
        assert await first_lines(gateway, "Origin: https://app.example.com") == 101
        assert await first_lines(gateway, "Origin: https://other.example.com") == 403
        listed = await request(gateway, "Origin: https://app.example.com", path="/api/openapi.json")
        assert listed.headers["access-control-allow-origin"] == "https://app.example.com"
        assert listed.headers["cross-origin-resource-policy"] == "cross-origin"
        other = await request(gateway, "Origin: https://other.example.com", path="/api/openapi.json")
        assert "access-control-allow-origin" not in other.headers
        assert "Origin" in other.headers["vary"]
        rebound = await request(gateway, "Host: evil.org", path="/api/openapi.json")
        assert (rebound.status, rebound.problem["code"]) == (421, "PERMISSION_DENIED")
        assert (await request(gateway, "Host: evil.org", path="/healthz")).status == 200


async def test_one_address_may_ask_so_often_and_no_header_makes_it_another() -> None:
    settings = "guard.requests_per_second=0.5", "guard.request_burst=5"
    async with running_gateway(NOBODY, *settings) as gateway:
        answers = [await request(gateway, f"X-Forwarded-For: 10.0.0.{n}", path="/api/openapi.json") for n in range(8)]
        assert [answer.status for answer in answers].count(200) in {5, 6}
        refused = answers[-1]
        assert_secure(refused)
        assert (refused.status, refused.problem["code"]) == (429, "RESOURCE_EXHAUSTED")
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        assert (await request(gateway, path="/api/openapi.json", source="127.0.0.2")).status == 200
        assert (await request(gateway, path="/healthz")).status == 200
        assert gateway.metrics.registry.get_sample_value("lipsync_gateway_refused_total", {"reason": "rate"})


async def test_behind_a_trusted_proxy_each_caller_has_a_rate_of_its_own() -> None:
    settings = "guard.requests_per_second=0.01", "guard.request_burst=1", 'guard.trusted_proxies=["127.0.0.0/8"]'
    async with running_gateway(NOBODY, *settings) as gateway:
        for caller in range(5):
            forwarded = f"X-Forwarded-For: 1.2.3.4, 203.0.113.{caller}"
            assert (await request(gateway, forwarded, path="/api/openapi.json")).status == 200
            assert (await request(gateway, forwarded, path="/api/openapi.json")).status == 429


async def test_one_address_has_so_many_sockets_and_they_come_back() -> None:
    async with calling(NOBODY, "guard.max_sockets_per_address=2") as http:
        first, second = [await http.ws_connect("/ws") for _ in range(2)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect("/ws")
        assert refused.value.status == 429
        assert (await http.get("/healthz")).status == 200
        await first.close()
        async with asyncio.timeout(60):
            while True:
                try:
                    third = await http.ws_connect("/ws")
                except aiohttp.WSServerHandshakeError:
                    await asyncio.sleep(0.02)
                else:
                    break
        await third.close()
        await second.close()


async def test_one_address_has_so_many_connections() -> None:
    async with running_gateway(NOBODY, "guard.max_connections_per_address=5", "guard.max_connections=7") as gateway:
        held = [await connected(gateway) for _ in range(5)]
        reader, writer = await connected(gateway)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        assert (await request(gateway, path="/healthz", source="127.0.0.2")).status == 200
        held += [await connected(gateway, source=f"127.0.0.{n}") for n in (3, 4)]
        with pytest.raises((ConnectionError, IndexError, ValueError)):
            await request(gateway, path="/healthz", source="127.0.0.5")
        for _, each in held:
            each.close()
        async with asyncio.timeout(60):
            while True:
                try:
                    assert (await request(gateway, path="/healthz")).status == 200
                except (ConnectionError, IndexError, ValueError):
                    await asyncio.sleep(0.02)
                else:
                    break


@pytest.mark.parametrize(
    "begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: here\r\n", b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\nGET"]
)
async def test_a_request_that_never_ends_is_given_up(begun: bytes) -> None:
    async with running_gateway(NOBODY, "guard.keepalive_seconds=0.3") as gateway:
        reader, writer = await connected(gateway)
        writer.write(begun)
        async with asyncio.timeout(25):  # less than by default
            dripping = asyncio.create_task(drip(writer))
            with suppress(ConnectionResetError):
                await reader.read()
            dripping.cancel()
        writer.close()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Keeps a request growing."""
    while not writer.is_closing():
        writer.write(b"X")
        await asyncio.sleep(0.05)


async def test_thousands_of_viewers_that_vanish_leave_nothing_behind() -> None:
    async with running_gateway(NOBODY, "guard.requests_per_second=100000", "guard.request_burst=100000") as gateway:
        for _ in range(5):
            await asyncio.gather(*(vanish(gateway) for _ in range(200)))
        async with asyncio.timeout(60):
            while gateway.face.calls.running:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)
        assert (await request(gateway, path="/healthz")).status == 200


async def vanish(gateway: RunningService) -> None:
    """Asks for moving pictures and resets the connection at once."""
    _, writer = await connected(gateway)
    writer.write(b"GET /api/avatars/demo/stream.mjpeg HTTP/1.1\r\nHost: here\r\n\r\n")
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await writer.drain()
    writer.transport.abort()
