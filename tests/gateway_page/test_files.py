"""The files of the page as a browser gets them."""

from __future__ import annotations

import io
import re
import wave

import av
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway_service.page import routes

from .conftest import SPEECH

FILES = sorted(path.name for path in routes.FILES.iterdir() if path.name != "index.html")
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".flac": "audio/flac"}


async def get(path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    application = web.Application()
    routes.add_routes(application)
    async with TestClient(TestServer(application)) as client, client.get(path, headers=headers) as answer:
        return answer.status, dict(answer.headers), await answer.read()


@pytest.mark.parametrize("name", FILES)
async def test_each_file_has_its_type_and_is_asked_for_again(name: str) -> None:
    status, headers, content = await get(f"/page/{name}")
    assert status == 200
    assert content == (routes.FILES / name).read_bytes()
    assert headers["Content-Type"].split(";")[0] == TYPES["." + name.rpartition(".")[2]]
    assert headers["Cache-Control"] == "no-cache"
    status, _, content = await get(f"/page/{name}", **{"If-None-Match": headers["Etag"]})
    assert (status, content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/page/", "/page/routes.py", "/page/../routes.py", "/page/%2e%2e/routes.py", "/page/index.html"]
)
async def test_nothing_else_is_served(path: str) -> None:
    assert (await get(path))[0] == 404


async def test_the_page_obeys_the_strictest_policy() -> None:
    _, headers, content = await get("/")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    html = content.decode()
    assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", html)
    named = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert named
    assert all((routes.FILES / name.removeprefix("page/")).is_file() for name in named if name)


@pytest.mark.parametrize("name", ["index.html", *FILES])
def test_nothing_comes_from_elsewhere(name: str) -> None:
    if name.endswith(".flac"):
        return
    text = (routes.FILES / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text)
    imported = re.findall(r'from "([^"]+)"', text)
    assert all((routes.FILES / path).is_file() for path in imported)


async def test_the_recording_is_the_shipped_one_without_loss() -> None:
    _, _, content = await get("/page/speech.flac")
    with av.open(io.BytesIO(content)) as container:
        decoded = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    with wave.open(str(SPEECH)) as file:
        np.testing.assert_array_equal(decoded, np.frombuffer(file.readframes(file.getnframes()), np.int16))
