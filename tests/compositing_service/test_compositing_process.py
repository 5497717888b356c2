"""The service as a process: its ready line, its log lines, its orderly end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import grpc

from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from .conftest import sound
from .fake_inference import FakeInference

ROOT = Path(__file__).parents[2]
SERVE = """
import sys
from compositing_service.service import serve
from compositing_service.settings import CompositingSettings
from service_kit.settings import load_settings

sys.exit(serve(load_settings(CompositingSettings, config=None, overrides=sys.argv[1:], environ={})))
"""


async def start(*overrides: str) -> tuple[asyncio.subprocess.Process, str]:
    """The process, and the address that its ready line names."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, *overrides, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    words = (await process.stdout.readline()).decode().split()
    assert words[:2] == ["ready", "compositing"]
    return process, words[2]


async def until(word: str, stream: asyncio.StreamReader | None) -> list[bytes]:
    """All lines up to the first with `word`."""
    assert stream is not None
    lines = [await stream.readline()]
    while lines[-1] and word.encode() not in lines[-1]:
        lines.append(await stream.readline())
    return lines


async def test_serves_logs_and_ends(inference: FakeInference, models_root: Path) -> None:
    process, address = await start(
        "server.port=127.0.0.1:0",
        "metrics.port=127.0.0.1:0",
        f"inference_server.url=127.0.0.1:{inference.port}",
        f"models_root={models_root}",
        "logging.format=json",
        "logging.log_compositing_times=true",
        "logging.log_inference_times=true",
        "logging.log_cache_stats=true",
        "logging.report_interval_seconds=0.1",
    )
    async with grpc.aio.insecure_channel(address) as channel:
        request = pb.CompositeBatchRequest(model_id="demo", batch_size=6, raw_audio=sound(6))
        stub: Any = CompositingServiceStub(channel)
        response = await stub.InferBatchComposite(request, metadata=(("x-request-id", "order-66"),), timeout=20)
        assert len(response.composited_frames) == 6
    errors = await until("backgrounds", process.stderr)
    process.send_signal(signal.SIGTERM)
    errors += (await process.communicate())[1].splitlines()
    assert process.returncode == 0
    lines = [json.loads(line) for line in errors if line.startswith(b"{")]
    by_text = {line.get("message", line.get("msg")): line for line in lines}
    assert by_text["composited"]["frames"] == by_text["inferred"]["frames"] == 6
    assert by_text["composited"]["composite_ms"] > 0
    assert by_text["inferred"]["inference_ms"] == 4.0
    assert "order-66" in str(by_text["composited"])
    assert by_text["backgrounds"]["avatars"] in {0, 1}
