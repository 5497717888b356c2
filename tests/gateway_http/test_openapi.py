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
    """How an answer is provoked: `at` names the gateway that is asked."""

    at: str = "well"
    avatar: str = "small"
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    key: str = ""
    """The caller whose key is sent to "asking"."""


WELL, ALONE, TIGHT, POST = Ask(), Ask("alone"), Ask("tight"), Ask(method="POST")
ASKED, SINGER, READER = Ask("asking"), Ask("asking", key="infer"), Ask("asking", key="read")
TICKETS = "/api/tickets"
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
    (TICKETS, "200"): replace(SINGER, method="POST"),
    (TICKETS, "401"): replace(ASKED, method="POST"),
    (TICKETS, "403"): replace(READER, method="POST"),
    (TICKETS, "404"): POST,
    (TICKETS, "429"): replace(TIGHT, method="POST"),
    (TICKETS, "default"): WELL,
    ("/ws", "401"): Ask("asking", headers={**WEBSOCKET, "X-Api-Key": "nonsense"}),
    ("/ws", "403"): Ask(headers={**WEBSOCKET, "Origin": "http://evil.org"}),
    ("/ws", "429"): Ask("tight", headers=WEBSOCKET),
    ("/ws", "default"): POST,
}


@dataclass(frozen=True)
class Gateways:
    """Gateways by name, the secret of a session that runs at "talking", and the keys for "asking" by their scope."""

    addresses: dict[str, str]
    application: aiohttp.web.Application
    secret: str
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
            for name, each in {"well": well, "talking": well, "alone": alone, "tight": tight, "asking": asking}.items()
        }
        http = await stack.enter_async_context(aiohttp.ClientSession())
        await http.get(f"{addresses['tight']}/api/openapi.json")
        socket = await stack.enter_async_context(http.ws_connect(f"{addresses['well']}/ws"))
        await socket.send_json({"config": {"model_id": "small"}})
        secret = (await socket.receive_json())["started"]["secret"]
        yield Gateways(addresses, well.face.server.applications["gateway"], secret, keys)


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
            (path, status): resolved(spec, response)
            for path, item in spec["paths"].items()
            for operation in item.values()
            for status, response in operation["responses"].items()
        }
        assert described.keys() == ASKS.keys()
        for (path, status), ask in ASKS.items():
            address = gateways.addresses[ask.at]
            secret = gateways.secret if ask.at == "talking" else "x"
            url = f"{address}{path.format(avatar=ask.avatar, secret=secret)}{ask.query}"
            headers = ask.headers | ({"Authorization": f"Bearer {gateways.keys[ask.key]}"} if ask.key else {})
            async with http.request(ask.method, url, headers=headers) as answer:
                await check(answer, spec, described[path, status], status, (path, status))


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
    assert {(path, method) for path, method in routes if method not in {"GET", "HEAD"}} == {(TICKETS, "POST")}


async def test_every_address_has_its_scope_or_is_open(gateways: Gateways) -> None:
    """What is not in the table is for operators alone."""
    routes = {route.resource.canonical for route in gateways.application.router.routes() if route.resource}
    assert {path for path in routes if not path.startswith("/page/")} - HEALTH_PATHS == SCOPES.keys()
