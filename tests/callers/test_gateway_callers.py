"""Callers of the gateway: over HTTP, and over WebSocket with a ticket or a header."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway_service.identity.callers import SCOPES
from gateway_service.websocket.messages import LONGEST_TEXT
from lipsync_cli.keys import create
from service_kit.callers.keys import new_key
from service_kit.listening import StartError
from service_kit.version import product_version

from ..end_to_end.processes import until
from ..gateway_http.conftest import calling
from .conftest import Guarded

PATIENCE_S = 60
UNAUTHENTICATED, DENIED = 4016, 4007
SILENCE = bytes(640 * 4)


@pytest.fixture
async def http(guarded: Guarded) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{guarded.gateway.address}", timeout=aiohttp.ClientTimeout(PATIENCE_S)) as session:
        yield session


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def status(http: aiohttp.ClientSession, key: str) -> int:
    async with http.get("/api/avatars", headers=bearer(key)) as answer:
        return answer.status


async def ticket(http: aiohttp.ClientSession, key: str) -> str:
    async with http.post("/api/tickets", headers=bearer(key)) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Cache-Control"] == "no-store"
        content = await answer.json()
        assert content["expires_in_s"] == 30
        return str(content["ticket"])


@asynccontextmanager
async def session(
    http: aiohttp.ClientSession, avatar: str = "small", *, headers: dict[str, str] | None = None, **config: Any
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with http.ws_connect("/ws", headers=headers) as socket:
        await socket.send_json({"config": {"model_id": avatar, **config}})
        yield socket


async def began(socket: aiohttp.ClientWebSocketResponse) -> bool:
    """Waits for the first picture. False if the socket ends before."""
    while (message := await socket.receive(PATIENCE_S)).type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
        if message.type is aiohttp.WSMsgType.BINARY:
            return True
    return False


async def end(socket: aiohttp.ClientWebSocketResponse) -> tuple[int | None, dict[str, Any]]:
    """Waits for the end. Returns the close code, and the error before it."""
    error: dict[str, Any] = {}
    while (message := await socket.receive(PATIENCE_S)).type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
        if message.type is aiohttp.WSMsgType.TEXT:
            error = json.loads(message.data).get("error", error)
    return socket.close_code, error


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ([], 'Bearer realm="lipsync"'),
        ([("Authorization", "Bearer nonsense")], 'Bearer realm="lipsync", error="invalid_token"'),
        ([("Authorization", "Basic YTpi")], 'Bearer realm="lipsync", error="invalid_token"'),
        ([("X-Api-Key", "nonsense"), ("X-Api-Key", "nonsense")], 'Bearer realm="lipsync", error="invalid_token"'),
    ],
)
async def test_a_stranger_gets_401_and_a_challenge(
    http: aiohttp.ClientSession, headers: list[tuple[str, str]], challenge: str
) -> None:
    for path in ("/api/avatars", "/api/avatars/small/still.jpg", "/api/avatars/nobody/stream.mjpeg"):
        async with http.get(path, headers=headers) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == challenge
            assert answer.content_type == "application/problem+json"
            assert (await answer.json())["code"] == "UNAUTHENTICATED"
    async with http.post("/api/tickets", headers=headers) as answer:
        assert answer.status == 401


async def test_a_key_is_taken_once_and_in_headers_alone(http: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    key = keys["alice"]
    for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"X-API-KEY": key}):
        async with http.get("/api/avatars", headers=headers) as answer:
            assert answer.status == 200
    attempts: list[Any] = [[("X-Api-Key", key), ("X-Api-Key", key)], [("X-Api-Key", key), ("Authorization", f"Bearer {key}")]]
    for twice in attempts:
        async with http.get("/api/avatars", headers=twice) as answer:
            assert answer.status == 401
    for path in (f"/api/avatars?key={key}", f"/api/avatars?authorization=Bearer {key}", f"/ws?ticket={key}"):
        async with http.get(path, headers={"Cookie": f"x-api-key={key}"}) as answer:
            assert answer.status in {400, 401}  # 400: no handshake of a WebSocket


async def test_a_missing_scope_gets_403(http: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    async with http.post("/api/tickets", headers=bearer(keys["reader"])) as answer:
        assert answer.status == 403
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="lipsync", error="insufficient_scope", scope="infer"'
    async with http.get("/api/avatars", headers=bearer(keys["operator"])) as answer:
        assert answer.status == 403


async def test_what_a_page_needs_before_a_key_is_open(http: aiohttp.ClientSession) -> None:
    for path in ("/", "/page/main.js", "/api/openapi.json", "/healthz", "/readyz", "/health"):
        async with http.get(path) as answer:
            assert answer.status == 200, path
    async with http.get("/api/page.json") as answer:
        assert (await answer.json())["asks_for_key"] is True


async def test_strangers_are_not_told_which_version_runs(http: aiohttp.ClientSession) -> None:
    for path in ("/", *(path for path, scope in SCOPES.items() if scope is None), "/healthz", "/nothing-here", "/api/avatars"):
        async with http.get(path) as answer:
            told = f"{answer.headers}\n{await answer.text()}"
        assert product_version() not in told, path
        assert answer.headers["Server"] == "lipsync"


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff%%% HTTP/1.1\r\nHost: \x00\r\n\r\n"]
)
async def test_what_is_no_request_is_not_told_which_programs_run(guarded: Guarded, nonsense: bytes) -> None:
    host, _, port = guarded.gateway.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(nonsense)
    told = (await reader.read()).decode("latin-1").lower()
    writer.close()
    await writer.wait_closed()
    assert "python" not in told
    assert "aiohttp" not in told


async def test_an_upgrade_elsewhere_opens_nothing(http: aiohttp.ClientSession) -> None:
    """The handshake of /ws alone needs no key, since its first message holds the ticket."""
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "a" * 22 + "==",
    }
    for path, scope in SCOPES.items():
        if scope and path != "/ws" and "tickets" not in path:
            async with http.get(path.replace("{avatar}", "small"), headers=upgrade) as answer:
                assert answer.status == 401, path


async def test_a_caller_sees_its_own_avatars(http: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    headers = bearer(keys["guest"])
    async with http.get("/api/avatars", headers=headers) as answer:
        assert [avatar["id"] for avatar in (await answer.json())["avatars"]] == ["other", "small"]
    async with http.get("/api/avatars/small/still.jpg", headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["Cache-Control"].startswith("private")
    for path in ("still.jpg", "stream.mjpeg"):
        async with http.get(f"/api/avatars/private/{path}", headers=headers) as answer:
            assert answer.status == 403


async def test_a_ticket_opens_one_session(guarded: Guarded, http: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    good = await ticket(http, keys["alice"])
    async with session(http, ticket=good) as socket:
        assert await began(socket)
    async with session(http, ticket=good) as socket:
        code, error = await end(socket)
        assert (code, error["code"]) == (UNAUTHENTICATED, "UNAUTHENTICATED")
        assert "used already" in error["message"]
    until(lambda: "caller=alice" in guarded.compositing.log.read_text())  # the compositing service knows for whom
    assert good not in guarded.compositing.log.read_text()


async def test_a_session_needs_a_ticket_or_a_header(http: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    async with session(http, headers=bearer(keys["bob"])) as socket:
        assert await began(socket)
    good = await ticket(http, keys["bob"])
    body, _, signature = good.rpartition(".")
    for bad in ("", "nonsense", body, f"{body}.", f".{signature}", good[:-1], f"{body}A.{signature}", "é" * 20, keys["bob"]):
        async with session(http, ticket=bad) as socket:
            assert (await end(socket))[0] == UNAUTHENTICATED, bad
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with session(http, headers=bearer("nonsense"), ticket=good):
            pass
    assert caught.value.status == 401


async def test_a_stranger_sends_no_long_message(http: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    async with http.ws_connect("/ws") as socket:
        await socket.send_bytes(bytes(LONGEST_TEXT + 2))
        assert not await began(socket)
        assert socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    async with session(http, headers=bearer(keys["alice"])) as socket:
        await socket.send_bytes(bytes(4 * LONGEST_TEXT))
        assert await began(socket)


async def test_a_session_shows_no_avatar_that_its_caller_may_not_use(http: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    async with session(http, "private", ticket=await ticket(http, keys["guest"])) as socket:
        assert (await end(socket))[0] == DENIED
    async with session(http, ticket=await ticket(http, keys["guest"])) as socket:
        assert await began(socket)
        await socket.send_json({"switch_avatar": {"model_id": "private"}})
        while (
            message := await socket.receive(PATIENCE_S)
        ).type is aiohttp.WSMsgType.BINARY or "switch_failed" not in message.data:
            pass
        assert json.loads(message.data)["switch_failed"]["code"] == "PERMISSION_DENIED"
        assert await began(socket)


async def test_earlier_clients_need_a_header(guarded: Guarded, http: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    request = {"type": "list_models"}
    async with http.ws_connect("/ws") as socket:
        await socket.send_json(request)
        assert (await end(socket))[0] == aiohttp.WSCloseCode.POLICY_VIOLATION
    async with http.ws_connect("/ws", headers=bearer(keys["guest"])) as socket:
        await socket.send_json(request)
        answer = json.dumps(await socket.receive_json(timeout=PATIENCE_S))
        assert "small" in answer
        assert "private" not in answer
        await socket.send_json({"type": "get_model_metadata", "model_name": "private"})
        assert (await socket.receive_json(timeout=PATIENCE_S))["success"] is False


async def test_the_sockets_of_a_revoked_caller_end(guarded: Guarded, http: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    key = guarded.key("mallory", "infer", "read")

    async def read_all(answer: aiohttp.ClientResponse) -> None:
        while await answer.content.readany():
            pass

    while await status(http, key.text) != 200:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    shown = await ticket(http, key.text)
    kept = await ticket(http, key.text)
    async with (
        session(http, ticket=shown) as socket,
        http.get("/api/avatars/other/stream.mjpeg", headers=bearer(key.text)) as watching,
        session(http, ticket=await ticket(http, keys["alice"])) as others,
    ):
        assert await began(socket)
        assert await began(others)
        assert watching.status == 200
        guarded.revoke(key)
        code, error = await end(socket)
        assert (code, error["code"]) == (UNAUTHENTICATED, "UNAUTHENTICATED")
        with pytest.raises(aiohttp.ClientError):
            await read_all(watching)
        assert await began(others)
    async with session(http, ticket=kept) as socket:  # made before
        assert (await end(socket))[0] == UNAUTHENTICATED


async def test_a_caller_whom_the_compositing_service_has_revoked_is_told_so(guarded: Guarded, keys: dict[str, str]) -> None:
    """Also where the gateway itself does not know it yet, or never will: it has keys of its own."""
    own, file = guarded.keys.with_name("gateway-apart.key"), guarded.keys.with_name("keys-apart.json")
    own.write_text(keys["gateway"])
    revoked, kept = (create(file, name, scopes=["infer"], avatars=None, valid=None).text for name in ("trudy", "victor"))
    settings = f"auth.keys_file={file}", f"compositing_server.api_key_file={own}"
    async with (
        calling(guarded.compositing.address, *settings) as http,
        session(http, headers=bearer(revoked)) as socket,
        session(http, headers=bearer(kept)) as others,
    ):
        assert await began(socket)
        guarded.revoke_caller("trudy")
        assert (await end(socket))[1] == {"code": "UNAUTHENTICATED", "message": "this caller was revoked"}
        assert await began(others)


async def test_a_page_from_elsewhere_may_send_a_key_where_it_is_allowed(guarded: Guarded, keys: dict[str, str]) -> None:
    """Two gateways behind one balancer: what one has signed, the other takes."""
    own, secret = guarded.keys.with_name("gateway.key"), guarded.keys.with_name("tickets.secret")
    own.write_text(f"{keys['gateway']}\n")
    secret.write_bytes(bytes(range(32)))
    settings = (
        f"auth.keys_file={guarded.keys}",
        f"compositing_server.api_key_file={own}",
        f"tickets.secret_file={secret}",
        'guard.allowed_origins=["https://app.example"]',
    )
    upstream = guarded.compositing.address
    async with calling(upstream, *settings) as one, calling(upstream, *settings) as other:
        for origin, allowed in (
            ("https://app.example", "Authorization, Content-Type, If-Match, X-Api-Key"),
            ("https://evil.example", None),
        ):
            async with one.options("/api/avatars", headers={"Origin": origin}) as answer:
                assert answer.status == 204
                assert answer.headers.get("Access-Control-Allow-Headers") == allowed
        async with session(other, ticket=await ticket(one, keys["alice"])) as socket:
            assert await began(socket)


async def test_a_gateway_whose_own_key_is_bad_says_so_to_nobody_but_its_operators(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    own = guarded.keys.with_name("old.key")
    own.write_text(new_key().text)
    async with calling(guarded.compositing.address, f"compositing_server.api_key_file={own}") as http:
        async with http.get("/api/avatars") as answer:
            assert answer.status == 503
            assert "WWW-Authenticate" not in answer.headers
        async with session(http) as socket:
            assert (await end(socket))[1]["code"] == "UNAVAILABLE"
    assert "does not let this gateway in" in caplog.text


@pytest.mark.parametrize("content", [None, "", "two words", "a" * 9000], ids=["none", "empty", "words", "long"])
async def test_a_gateway_does_not_start_with_what_is_no_key(tmp_path: Path, content: str | None) -> None:
    own = tmp_path / "own.key"
    if content is not None:
        own.write_text(content)
    with pytest.raises(StartError, match=r"compositing_server\.api_key_file") as caught:
        async with calling("127.0.0.1:1", f"compositing_server.api_key_file={own}"):
            pass
    assert "two words" not in str(caught.value)
