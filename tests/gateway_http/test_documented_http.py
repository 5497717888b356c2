"""docs/http.md does what it says."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from pathlib import Path

import cv2
import grpc

from gateway_service.problems import HTTP_STATUS
from service_kit.life import RunningService

from ..end_to_end.processes import Service
from ..programs import program
from .conftest import running_gateway

PAGE = Path(__file__).parents[2] / "docs" / "http.md"


async def run(command: str, gateway: RunningService, folder: Path) -> str:
    """The output of a line with curl, asked of this gateway."""
    words = shlex.split(command.replace("localhost:8086", gateway.address.reachable).replace("/demo/", "/small/"))
    assert words[0] == "curl"
    process = await asyncio.create_subprocess_exec(*words, cwd=folder, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == (28 if "--max-time" in words else 0), command
    return output.decode()


async def test_every_line_with_curl_works(compositing: Service, tmp_path: Path) -> None:
    program("curl", "curl")
    (tmp_path / "out").mkdir()
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    async with running_gateway(compositing.address) as gateway:
        printed = {command.split("8086")[1].strip('"'): await run(command, gateway, tmp_path) for command in commands}
    assert json.loads(printed["/api/openapi.json"])["openapi"] == "3.1.0"
    assert "small" in {each["id"] for each in json.loads(printed["/api/avatars"])["avatars"]}
    assert cv2.imread(str(tmp_path / "out" / "demo.jpg")).shape[1] == 320
    assert (tmp_path / "out" / "rest.mjpeg").read_bytes().count(b"Content-Type: image/jpeg") > 10
    assert json.loads(printed["/api/page.json"])["speech"]["voice"] == "en"
    assert printed["/healthz"] == printed["/readyz"] == "ok\n"
    assert json.loads(printed["/api/avatars/nobody/still.jpg"])["code"] == "NOT_FOUND"


def test_the_table_of_statuses_is_that_of_the_code() -> None:
    rows = re.findall(r"\| ([A-Z_, ]+) \| (\d{3})", PAGE.read_text(encoding="utf-8"))
    told = {name: int(status) for names, status in rows for name in names.split(", ")}
    assert told == {code.name: status for code, status in HTTP_STATUS.items() if code is not grpc.StatusCode.OK}
