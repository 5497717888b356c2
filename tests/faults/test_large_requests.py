"""Requests that are large, stalled or packed, and many at once: memory is bounded, and an innocent caller does not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from shared_proto import compositing_pb2 as pb

from ..end_to_end.callers import SteadyCaller
from ..end_to_end.conftest import CALL_S, CHANNEL_OPTIONS, Duo, serving
from ..end_to_end.processes import assert_no_trace, resident_mb, running, until
from ..end_to_end.talking import Talk, config
from .conftest import SOUND
from .http2 import RawCaller, message

Code = grpc.StatusCode
MEBIBYTE = 1 << 20
LARGEST = 8 * MEBIBYTE
BUDGET = 16 * MEBIBYTE
BATCH = "/compositing.CompositingService/InferBatchComposite"


@pytest.fixture(scope="module")
def strict(models_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    """Services with limits that a test reaches with little."""
    limits = [
        f"server.max_request_size_mb={LARGEST // MEBIBYTE}",
        f"server.max_requests_in_memory_mb={BUDGET // MEBIBYTE}",
        "server.max_streams_per_connection=7",
    ]
    with serving(models_root, tmp_path_factory.mktemp("strict"), compositing=limits) as both:
        yield both
    assert_no_trace(both.compositing)
    assert_no_trace(both.inference)


def large() -> bytes:
    """A valid request, with so much that is not looked at."""
    request = pb.CompositeBatchRequest(model_id="small", batch_size=2, raw_audio=SOUND)
    request.audio_features = bytes(LARGEST - request.ByteSize() - 16)
    return request.SerializeToString()


def test_many_valid_large_requests_at_once(strict: Duo, steady: SteadyCaller) -> None:
    data = large()

    def ask(_: int) -> Code:
        with grpc.insecure_channel(strict.compositing.address, (("grpc.use_local_subchannel_pool", 1), *CHANNEL_OPTIONS)) as own:
            try:
                own.unary_unary(BATCH)(data, timeout=CALL_S)
            except grpc.RpcError as error:
                return error.code()
        return Code.OK

    before = resident_mb(strict.compositing)
    with ThreadPoolExecutor(30) as callers:
        answers = callers.map(ask, range(90))
        most = 0.0
        while (running := strict.compositing.metric("lipsync_running_calls")) or most == 0:
            most = max(most, resident_mb(strict.compositing))
            steady.wait_for_a_call()
            if running <= 1 and most:
                break
        counted = list(answers)
    assert set(counted) <= {Code.OK, Code.RESOURCE_EXHAUSTED}
    assert counted.count(Code.OK) > 0
    # Each of those that come at the same time is in memory once, and then refused; one that is served takes six times its size.
    assert most - before < 2 * 30 * LARGEST / MEBIBYTE
    steady.wait_for_a_call()


async def test_senders_that_stall_before_the_last_byte_are_dropped(models_root: Path, tmp_path: Path) -> None:
    """The oldest first, once the process has grown by the budget; nobody waits for minutes."""
    limits = ["server.max_request_size_mb=8", "server.max_requests_in_memory_mb=16"]
    nowhere = "inference_server.url=127.0.0.1:1"
    idle = pb.CompositeBatchRequest(model_id="small", batch_size=2, idle=True)
    with (
        running("compositing", f"models_root={models_root}", nowhere, *limits, log=tmp_path / "log") as service,
        SteadyCaller(service.address, idle) as steady,
    ):
        async with AsyncExitStack() as stack:
            senders = [await stack.enter_async_context(RawCaller(service.address)) for _ in range(8)]
            for sender in senders:
                await sender.open(1, BATCH)
                await sender.send(1, message(bytes(LARGEST - 1), length=LARGEST))
            await asyncio.to_thread(steady.wait_for_a_call)
            assert [await sender.wait_for_the_end(1, within_s=CALL_S) for sender in senders[:3]] == [True] * 3
            assert resident_mb(service) < 300
            await asyncio.to_thread(steady.wait_for_a_call)
    assert "as too much else is on its way" in service.log.read_text()


@pytest.mark.parametrize("how", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_packed_requests_are_refused_unopened(strict: Duo, steady: SteadyCaller, how: grpc.Compression) -> None:
    before = resident_mb(strict.compositing)
    for channel, path in ((strict.to_compositing, BATCH), (strict.to_inference, "/inference.InferenceService/InferBatch")):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(large(), compression=how, timeout=CALL_S)
        assert caught.value.code() is Code.UNIMPLEMENTED
    assert resident_mb(strict.compositing) - before < LARGEST / MEBIBYTE


async def test_a_connection_has_so_many_streams(strict: Duo) -> None:
    async with RawCaller(strict.compositing.address) as caller:
        await caller.open(1, "/compositing.CompositingService/Health")
        await caller.send(1, message(b""), end=True)
        assert await caller.wait_for_the_end(1, within_s=CALL_S)
        assert caller.settings[3] == 7


def test_large_messages_of_sessions_share_the_budget(strict: Duo, steady: SteadyCaller) -> None:
    sound = np.zeros((LARGEST - 1000) // 2, np.int16).tobytes()
    talks = [Talk(strict.pictures, config(audio_encoding=pb.PCM_INT16, idle=pb.IDLE_NONE)) for _ in range(4)]
    try:
        for talk in talks:
            talk.__enter__()
            talk.wait(lambda talk=talk: talk.of("started"))
            talk.send(audio=pb.SessionAudio(data=sound))
        until(lambda: sum(talk.error is not None for talk in talks) >= 2)
        refused = [talk.failure().code() for talk in talks if talk.error]
        assert refused == [Code.RESOURCE_EXHAUSTED] * 2
        steady.wait_for_a_call()
    finally:
        for talk in talks:
            talk.__exit__(None, None, None)


def test_metadata_that_is_no_text_costs_no_line(strict: Duo) -> None:
    async def ask() -> None:
        async with RawCaller(strict.compositing.address) as caller:
            for stream in range(1, 41, 2):
                await caller.open(
                    stream, "/compositing.CompositingService/Health", [(b"x-request-id", b"\xff\xfe"), (b"x-a", b"\xc3(")]
                )
                await caller.send(stream, message(b""), end=True)
                assert await caller.wait_for_the_end(stream, within_s=CALL_S)
            assert not caller.reset

    before = len(strict.compositing.log.read_bytes())
    asyncio.run(ask())
    assert len(strict.compositing.log.read_bytes()) == before


def test_a_peak_goes_back_to_the_system(strict: Duo, steady: SteadyCaller) -> None:
    """Memory of large requests is kept for the next ones at first, and given back when none come.

    A busy machine may not bring so many together at any time that there is enough to give back.
    """
    data = large()
    peak = 0.0
    for _ in range(20):
        call = strict.to_compositing.unary_unary(BATCH).future
        for each in [call(data, timeout=CALL_S) for _ in range(30)]:
            each.code()
        peak = max(peak, resident_mb(strict.compositing))
        if peak > 300:
            break
    until(lambda: resident_mb(strict.compositing) < (220 if peak > 300 else 300))
