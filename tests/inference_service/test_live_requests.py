"""Requests of live sessions at a real service on a real socket: their places in the queue, and admission by capacity."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from inference_service.parts import inference_parts
from inference_service.request import check_infer_request
from inference_service.runner import MAX_SESSION_REQUESTS
from inference_service.service import inference_service
from inference_service.settings import InferenceSettings
from service_kit import request_context
from service_kit.errors import ResourceExhausted
from service_kit.life import RunningService
from service_kit.metrics import Metrics
from service_kit.settings import load_settings
from shared_proto import inference_pb2 as pb
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from ..end_to_end.avatars import slow_network
from ..virtual_clock import VirtualClock
from .conftest import MakeAvatar

PATIENCE_S = 60
SOUND = bytes(2560)


@asynccontextmanager
async def serving(root: Path, *overrides: str) -> AsyncIterator[Any]:
    wanted = [
        "server.port=127.0.0.1:0",
        "metrics.enabled=false",
        f"models_root={root / 'models'}",
        "gpus.enabled=false",
        *overrides,
    ]
    settings = load_settings(InferenceSettings, config=None, environ={}, overrides=wanted)
    async with (
        asyncio.timeout(PATIENCE_S),
        RunningService(inference_service(settings)) as server,
        aio.insecure_channel(f"127.0.0.1:{server.address.port}", options=[("grpc.max_receive_message_length", -1)]) as channel,
    ):
        yield InferenceServiceStub(channel)


def asked(batch_size: int = 1, **fields: Any) -> pb.InferBatchRequest:
    return pb.InferBatchRequest(model_id="someone", batch_size=batch_size, raw_audio=SOUND, **fields)


def of(session_id: str) -> dict[str, Any]:
    return {"metadata": ((request_context.SESSION_ID_KEY, session_id),), "timeout": PATIENCE_S}


async def refused(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, caught.value.details()
    assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    return caught.value


async def unread(stub: Any, count: int, request: pb.InferBatchRequest, **how: Any) -> list[Any]:
    """Begins streams whose reader stops after the first message. Each keeps its place: a connection holds less than 15 MB."""
    streams = [stub.InferStream(request, **how) for _ in range(count)]
    for stream in streams:
        await stream.read()
    return streams


async def test_a_full_queue_of_batch_work_shuts_no_session_out(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar()
    async with serving(tmp_path, "server.queue_size=1") as stub, AsyncExitStack() as ending:
        for stream in await unread(stub, 1, asked(50), timeout=PATIENCE_S):
            ending.callback(stream.cancel)
        await refused(stub.InferBatch(asked(), timeout=PATIENCE_S))
        await refused(stub.InferBatch(asked(due_in_ms=40), timeout=PATIENCE_S))  # no session: a place of batch work
        encode = pb.EncodeAudioRequest(model_id="someone", raw_audio=SOUND, row_count=3)
        await refused(stub.EncodeAudio(encode, **of("session")))
        encode.due_in_ms = 40
        assert len((await stub.EncodeAudio(encode, **of("session"))).silent) == 3
        replies = await asyncio.gather(
            *(stub.InferBatch(asked(3, due_in_ms=40), **of(f"session-{number}")) for number in range(70))
        )
        assert [len(reply.outputs) for reply in replies] == [3] * 70


async def test_the_places_of_one_session_are_bounded(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar()
    async with serving(tmp_path) as stub, AsyncExitStack() as ending:
        for stream in await unread(stub, MAX_SESSION_REQUESTS, asked(50, due_in_ms=40), **of("greedy")):
            ending.callback(stream.cancel)
        await refused(stub.InferBatch(asked(due_in_ms=40), **of("greedy")))
        assert len((await stub.InferBatch(asked(due_in_ms=40), **of("modest"))).outputs) == 1
        assert len((await stub.InferBatch(asked(), **of("greedy"))).outputs) == 1, "batch work of a session is batch work"


async def test_sessions_share_the_runs_with_the_same_bytes(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar()
    async with serving(tmp_path) as stub:
        alone = await stub.InferBatch(asked(5), timeout=PATIENCE_S)
        together = await asyncio.gather(
            *(stub.InferBatch(asked(5, due_in_ms=number + 1), **of(f"session-{number}")) for number in range(9)),
            *(stub.InferBatch(asked(5), timeout=PATIENCE_S) for _ in range(9)),
        )
        assert {tuple(output.data for output in reply.outputs) for reply in together} == {
            tuple(output.data for output in alone.outputs)
        }


async def test_a_session_that_could_not_be_kept_is_refused_and_one_that_runs_is_not(
    make_avatar: MakeAvatar, tmp_path: Path
) -> None:
    make_avatar(model=slow_network(layers=24))
    async with serving(tmp_path) as stub:
        await stub.LoadModel(pb.LoadModelRequest(model_id="someone"), timeout=PATIENCE_S)
        for admission in (pb.NEW_SESSION, pb.RESUMED_SESSION):
            error = await refused(stub.InferBatch(asked(due_in_ms=40, admission=admission), **of("new")))
            assert "real time" in error.details()
            assert "a second here, and a session takes 28" in error.details(), "not that others have the place"
        assert len((await stub.InferBatch(asked(due_in_ms=40), **of("runs"))).outputs) == 1
        again = asked(due_in_ms=40, admission=pb.NEW_SESSION)
        assert len((await stub.InferBatch(again, **of("runs"))).outputs) == 1, "it is carried already"
        assert len((await stub.InferBatch(again, timeout=PATIENCE_S)).outputs) == 1, "no session asks"


async def test_a_session_that_comes_before_its_avatar_is_loaded_is_admitted_by_its_speed_too(
    make_avatar: MakeAvatar, tmp_path: Path
) -> None:
    make_avatar(model=slow_network(layers=24))
    async with serving(tmp_path) as stub:
        error = await refused(stub.InferBatch(asked(due_in_ms=40, admission=pb.NEW_SESSION), **of("new")))
        assert "real time" in error.details()


async def test_a_slow_moment_of_long_ago_refuses_no_session(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    """The speed is measured again before a session is refused for it."""
    make_avatar()
    metrics, clock = Metrics(), VirtualClock()
    settings = InferenceSettings.model_validate({"models_root": tmp_path / "models", "gpus": {"enabled": False}})
    parts = inference_parts(settings, metrics, on_lost=pytest.fail, clock=clock)
    async with asyncio.timeout(PATIENCE_S), parts as opened:
        lease = await opened.registry.load("someone")
        lease.value.warm_up_seconds = 10.0
        request_context.session_id.set("session")
        request = check_infer_request(asked(2, due_in_ms=40, admission=pb.NEW_SESSION), settings.limits)
        async with aclosing(opened.runner.mouths(request, deadline_s=float("inf"))) as groups:
            assert sum([len(group.mouths) async for group, _ in groups]) == 2

        def value(name: str, **labels: str) -> float | None:
            return metrics.registry.get_sample_value(f"lipsync_inference_{name}", labels)

        await clock.advance(1)
        assert value("sessions") == 1
        assert (value("capacity_frames_per_second") or 0) > 1, "not a frame in ten seconds"
        assert value("refused_sessions_total", admission="new") == 0
        await clock.advance(3)
        assert value("sessions") == 0


async def test_a_refused_session_is_counted(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar(model=slow_network(layers=24))
    metrics = Metrics()
    settings = InferenceSettings.model_validate({"models_root": tmp_path / "models", "gpus": {"enabled": False}})
    async with asyncio.timeout(PATIENCE_S), inference_parts(settings, metrics, on_lost=pytest.fail) as opened:
        await opened.registry.load("someone")
        request_context.session_id.set("session")
        for admission, kind in ((pb.NEW_SESSION, "new"), (pb.RESUMED_SESSION, "resumed")):
            request = check_infer_request(asked(2, due_in_ms=40, admission=admission), settings.limits)
            with pytest.raises(ResourceExhausted):
                await anext(opened.runner.mouths(request, deadline_s=float("inf")))
            counted = metrics.registry.get_sample_value("lipsync_inference_refused_sessions_total", {"admission": kind})
            assert counted == 1


async def test_no_session_is_added_to_those_whose_frames_come_late(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    """The network alone would keep many more. A session that broke may go on."""
    make_avatar()
    # With so many workers that no busy machine makes the network too slow for two.
    async with serving(tmp_path, "limits.admit_sessions=measured", "server.worker_count_per_gpu=8") as stub:
        await stub.InferBatch(asked(due_in_ms=1000, admission=pb.NEW_SESSION), **of("first"))
        late = asked(20, due_in_ms=1, overdue_ms=60_000)
        await asyncio.gather(*(stub.InferBatch(late, **of("first")) for _ in range(3)))
        error = await refused(stub.InferBatch(asked(due_in_ms=1000, admission=pb.NEW_SESSION), **of("second")))
        assert "too late" in (error.details() or "")
        await stub.InferBatch(asked(due_in_ms=1000, admission=pb.RESUMED_SESSION), **of("broken"))
        await stub.InferBatch(asked(due_in_ms=1000), **of("first"))
        with pytest.raises(aio.AioRpcError, match="overdue_ms"):
            await stub.InferBatch(asked(due_in_ms=1, overdue_ms=-1), **of("first"))


@pytest.mark.parametrize("due_in_ms", [0, 40])
async def test_rows_are_of_the_version_that_the_caller_has(make_avatar: MakeAvatar, tmp_path: Path, due_in_ms: int) -> None:
    old = make_avatar(frames=3).version
    async with serving(tmp_path) as stub:

        def rows(version: str) -> Any:
            wanted = pb.EncodeAudioRequest(model_id="someone", raw_audio=SOUND, row_count=1, avatar_version=version)
            wanted.due_in_ms = due_in_ms
            return stub.EncodeAudio(wanted, **of("session"))

        assert (await rows(old)).row_count == 1
        new = make_avatar(frames=4, replace=True).version
        assert (await rows(old)).row_count == 1
        assert (await rows(new)).row_count == 1
        assert (await stub.InferBatch(asked(avatar_version=new), timeout=PATIENCE_S)).success
        with pytest.raises(aio.AioRpcError) as caught:
            await rows("another")
        assert caught.value.code() is grpc.StatusCode.ABORTED
        with pytest.raises(aio.AioRpcError) as caught:
            await rows("x" * 65)
        assert "avatar_version" in (caught.value.details() or "")
