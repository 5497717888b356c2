"""The description of the HTTP part against a gateway that runs: it gives each answer that is named, and no address is missing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from gateway_service.guard.guard import HEALTH_PATHS
from gateway_service.identity.callers import SCOPES
from lipsync_cli.keys import create
from service_kit.life import RunningService

from ..end_to_end.processes import Service
from ..gateway_webrtc.watching import new_connection, offer_of
from .conftest import running_gateway

NOBODY = "127.0.0.1:1"
WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
STILL, STREAM = "/api/avatars/{avatar}/still.jpg", "/api/avatars/{avatar}/stream.mjpeg"
WATCH = "/api/sessions/{secret}/stream.mjpeg"


@dataclass(frozen=True)
class Ask:
    """A way to provoke an answer: `at` names the gateway that is asked."""

    at: str = "well"
    avatar: str = "small"
    method: str = ""
    """"": that of the operation."""
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    key: str = ""
    """The caller whose key is sent to "asking"."""


WELL, ALONE, TIGHT, POST, PUT = Ask(), Ask("alone"), Ask("tight"), Ask(method="POST"), Ask(method="PUT")
ASKED, SINGER, READER = Ask("asking"), Ask("asking", key="infer"), Ask("asking", key="read")
TICKETS = "POST /api/tickets"
OF_AVATAR, OF_SESSION, VIEWER = "/api/avatars/{avatar}/whep", "/api/sessions/{secret}/whep", "/api/whep/{secret}"
SDP, FRAGMENT = {"Content-Type": "application/sdp"}, {"Content-Type": "application/trickle-ice-sdpfrag"}
OFFER, TAG = "an offer that can be answered", "the viewer's ETag"
"""Placeholders in asks."""
OFFERS = Ask(headers=SDP, body=OFFER)
CANDIDATES = Ask("watching", headers={**FRAGMENT, "If-Match": TAG}, body="a=end-of-candidates\r\n")
ASKS: dict[tuple[str, str], Ask] = {
    **{
        ("/api/avatars", status): ask
        for status, ask in {"200": WELL, "401": ASKED, "403": SINGER, "429": TIGHT, "503": ALONE, "default": POST}.items()
    },
    **{
        (path, status): ask
        for path in (STILL, STREAM)
        for status, ask in {
            "200": WELL,
            "400": Ask(avatar=".nobody"),
            "401": ASKED,
            "403": SINGER if path == STILL else READER,
            "404": Ask(avatar="nobody"),
            "429": TIGHT,
            "503": ALONE,
            "default": POST,
        }.items()
    },
    (STILL, "304"): Ask(headers={"If-None-Match": "*"}, query="?width=64"),
    (WATCH, "200"): Ask("talking"),
    (WATCH, "404"): WELL,
    (WATCH, "429"): TIGHT,
    (WATCH, "default"): POST,
    **{
        (path, status): ask
        for path in ("/", "/api/openapi.json", "/api/page.json")
        for status, ask in {"200": WELL, "429": TIGHT, "default": POST}.items()
    },
    **{(path, status): ask for path in ("/healthz", "/health/live") for status, ask in {"200": WELL, "503": ALONE}.items()},
    **{
        (path, status): ask
        for path in ("/readyz", "/health/ready", "/health")
        for status, ask in {"200": WELL, "503": ALONE}.items()
    },
    ("/ws", "101"): Ask(headers=WEBSOCKET),
    (TICKETS, "200"): SINGER,
    (TICKETS, "401"): ASKED,
    (TICKETS, "403"): READER,
    (TICKETS, "404"): WELL,
    (TICKETS, "429"): TIGHT,
    (TICKETS, "default"): PUT,
    (OF_AVATAR, "200"): WELL,
    (OF_AVATAR, "401"): ASKED,
    (OF_AVATAR, "403"): READER,
    (OF_SESSION, "200"): WELL,
    **{
        (f"{method}{path}", status): ask
        for path in (OF_AVATAR, OF_SESSION)
        for method in ("", "POST ")
        for status, ask in {"429": TIGHT, "default": PUT}.items()
    },
    **{
        (f"POST {path}", status): replace(ask, at="talking" if path == OF_SESSION else "well")
        for path in (OF_AVATAR, OF_SESSION)
        for status, ask in {
            "201": OFFERS,
            "400": replace(OFFERS, body="v=0"),
            "413": replace(OFFERS, body="v" * 70_000),
            "415": replace(OFFERS, headers={"Content-Type": "application/json"}),
        }.items()
    },
    (f"POST {OF_AVATAR}", "401"): ASKED,
    (f"POST {OF_AVATAR}", "403"): READER,
    (f"POST {OF_AVATAR}", "404"): replace(OFFERS, avatar="nobody"),
    (f"POST {OF_AVATAR}", "503"): replace(OFFERS, at="alone"),
    (f"POST {OF_SESSION}", "404"): OFFERS,
    (f"POST {OF_SESSION}", "409"): replace(OFFERS, at="hurrying"),
    **{
        (f"PATCH {VIEWER}", status): ask
        for status, ask in {
            "204": CANDIDATES,
            "400": replace(CANDIDATES, body="a=candidate:nonsense"),
            "404": WELL,
            "412": replace(CANDIDATES, headers={**FRAGMENT, "If-Match": '"another"'}),
            "415": replace(CANDIDATES, headers={"If-Match": TAG}),
            "422": replace(CANDIDATES, body="a=ice-ufrag:another\r\n"),
            "428": replace(CANDIDATES, headers=FRAGMENT),
            "429": TIGHT,
            "default": PUT,
        }.items()
    },
    **{
        (f"DELETE {VIEWER}", status): ask
        for status, ask in {"200": Ask("watching"), "404": WELL, "429": TIGHT, "default": PUT}.items()
    },
    ("/ws", "401"): Ask("asking", headers={**WEBSOCKET, "X-Api-Key": "nonsense"}),
    ("/ws", "403"): Ask(headers={**WEBSOCKET, "Origin": "http://evil.org"}),
    ("/ws", "429"): Ask("tight", headers=WEBSOCKET),
    ("/ws", "default"): POST,
}


@dataclass(frozen=True)
class Gateways:
    """Gateways by name, the secrets of what runs at some of them, and the keys for "asking" by their scope.

    At "talking" a session runs, at "hurrying" one without a pace; "watching" has a viewer, whose ETag is `etag`.
    """

    addresses: dict[str, str]
    application: aiohttp.web.Application
    secrets: dict[str, str]
    etag: str
    offer: str
    keys: dict[str, str]


@pytest.fixture
async def gateways(compositing: Service, tmp_path: Path) -> AsyncIterator[Gateways]:
    file = tmp_path / "keys.json"
    keys = {scope: create(file, scope, scopes=[scope], avatars=None, valid=None).text for scope in ("infer", "read")}
    async with AsyncExitStack() as stack:

        async def started(upstream: str, *settings: str) -> RunningService:
            return await stack.enter_async_context(running_gateway(upstream, *settings))

        well = await started(compositing.address)
        alone = await started(NOBODY)
        alone.liveness.fail("it is stuck")
        tight = await started(NOBODY, "guard.requests_per_second=0.001", "guard.request_burst=1")
        asking = await started(compositing.address, f"auth.keys_file={file}")
        addresses = {
            name: f"http://{each.address.reachable}"
            for name, each in {
                **dict.fromkeys(("well", "talking", "hurrying", "watching"), well),
                "alone": alone,
                "tight": tight,
                "asking": asking,
            }.items()
        }
        http = await stack.enter_async_context(aiohttp.ClientSession())
        await http.get(f"{addresses['tight']}/api/openapi.json")
        secrets = {}
        for name, pacing in (("talking", "REALTIME"), ("hurrying", "AS_FAST_AS_POSSIBLE")):
            socket = await stack.enter_async_context(http.ws_connect(f"{addresses['well']}/ws"))
            await socket.send_json({"config": {"model_id": "small", "pacing": pacing}})
            secrets[name] = (await socket.receive_json())["started"]["secret"]
        connection = new_connection()
        stack.push_async_callback(connection.close)
        offer = await offer_of(connection)
        async with http.post(f"{addresses['well']}/api/avatars/small/whep", data=offer, headers=SDP) as answer:
            secrets["watching"] = answer.headers["Location"].removeprefix("/api/whep/")
            etag = answer.headers["ETag"]
        yield Gateways(addresses, well.face.server.applications["gateway"], secrets, etag, offer, keys)


def resolved(spec: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """The part, or what its reference names."""
    found = part
    while "$ref" in found:
        target: Any = spec
        for name in found["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        found = target
    return found


async def test_every_answer_that_is_described_is_given_so(gateways: Gateways) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{gateways.addresses['well']}/api/openapi.json") as answer:
            spec = await answer.json()
        validate(spec)
        described = {
            (path if method == "get" else f"{method.upper()} {path}", status): resolved(spec, response)
            for path, item in spec["paths"].items()
            for method, operation in item.items()
            for status, response in operation["responses"].items()
        }
        assert described.keys() == ASKS.keys()
        for (operation, status), ask in ASKS.items():
            method, _, path = operation.rpartition(" ")
            address = gateways.addresses[ask.at]
            secret = gateways.secrets.get(ask.at, "x")
            url = f"{address}{path.format(avatar=ask.avatar, secret=secret)}{ask.query}"
            headers = ask.headers | ({"Authorization": f"Bearer {gateways.keys[ask.key]}"} if ask.key else {})
            headers = {name: gateways.etag if value == TAG else value for name, value in headers.items()}
            body = gateways.offer if ask.body == OFFER else ask.body or None
            async with http.request(ask.method or method or "GET", url, headers=headers, data=body) as answer:
                await check(answer, spec, described[operation, status], status, (operation, status))


async def check(
    answer: aiohttp.ClientResponse, spec: dict[str, Any], response: dict[str, Any], status: str, name: tuple[str, str]
) -> None:
    """Status, headers and content type are the described ones, and JSON has the described form."""
    assert answer.status == (405 if status == "default" else int(status)), name
    for header, described in response.get("headers", {}).items():
        assert not described.get("required") or header in answer.headers, name
    contents = response.get("content", {})
    if not contents:
        assert "Content-Type" not in answer.headers or status in {"304", "101"}, name
        return
    assert answer.content_type in contents, name
    schema = contents[answer.content_type].get("schema")
    if answer.content_type.endswith("json"):
        OAS31Validator({**schema, "components": spec["components"]}).validate(json.loads(await answer.read()))


async def test_no_address_is_missing(gateways: Gateways) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{gateways.addresses['well']}/api/openapi.json") as answer:
        described = set((await answer.json())["paths"])
    routes = {(route.resource.canonical, route.method) for route in gateways.application.router.routes() if route.resource}
    assert {path for path, _ in routes if not path.startswith("/page/")} == described
    others = {f"{method} {path}" for path, method in routes if method not in {"GET", "HEAD", "OPTIONS"}}
    assert others == {TICKETS, f"POST {OF_AVATAR}", f"POST {OF_SESSION}", f"PATCH {VIEWER}", f"DELETE {VIEWER}"}


async def test_every_address_has_its_scope_or_is_open(gateways: Gateways) -> None:
    """All that the table lacks is for operators alone."""
    routes = {route.resource.canonical for route in gateways.application.router.routes() if route.resource}
    assert {path for path in routes if not path.startswith("/page/")} - HEALTH_PATHS == SCOPES.keys()
