"""Orders of live sessions over lasting calls, before real services: several replicas, an older one, lost and new connections."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio

from avatar_kit.avatar import Avatar
from compositing_service.metrics import CompositingMetrics
from compositing_service.mouth_source import MouthOrder
from compositing_service.upstream.inference_client import InferenceClient
from inference_service.service import inference_service
from service_kit import request_context
from service_kit.deadline import Deadline
from service_kit.errors import NotFound, ResourceExhausted, Unavailable
from service_kit.life import RunningService
from service_kit.metrics import Metrics
from shared_proto import inference_pb2

from ..end_to_end.avatars import slow_network, write_avatar
from ..end_to_end.processes import running
from ..leaving_server import leaving_server
from .test_mouth_sources import SPEECHES, inference_settings, pixels

PATIENCE_S = 120
CALLS, ORDERS = "grpc_server_started_total", "lipsync_inference_session_orders_total"
REFUSED = "lipsync_inference_refused_sessions_total"
SPEECH = SPEECHES["growing sound"]


@pytest.fixture(autouse=True)
def a_session() -> Any:
    before = request_context.session_id.set("a-session")
    yield
    request_context.session_id.reset(before)


@pytest.fixture
def avatar(tmp_path: Path) -> Avatar:
    return write_avatar(tmp_path, "someone")


@pytest.fixture
def slow(tmp_path: Path) -> Avatar:
    return write_avatar(tmp_path, "slow", network=slow_network())


def order(avatar: Avatar, frames: Sequence[int] = (0, 1, 2, 3, 4, 3, 2), **changes: Any) -> MouthOrder:
    return MouthOrder(avatar.id, avatar.version, frames, SPEECH, **{"due_in_ms": 40} | changes)


@asynccontextmanager
async def client(*targets: str, max_retries: int = 0) -> AsyncIterator[InferenceClient]:
    metrics = CompositingMetrics(Metrics())
    source = InferenceClient(list(targets), timeout_s=PATIENCE_S, max_retries=max_retries, max_frames=50, metrics=metrics)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield source
    finally:
        await source.close()


def serving(root: Path, *overrides: str) -> RunningService[Any]:
    return RunningService(inference_service(inference_settings(root, *overrides)))


def target_of(server: RunningService[Any]) -> str:
    return f"127.0.0.1:{server.address.port}"


def count(server: RunningService[Any], name: str, **labels: str) -> float:
    return server.metrics.registry.get_sample_value(name, labels) or 0.0


def calls(server: RunningService[Any], method: str) -> float:
    return sum(
        sample.value
        for family in server.metrics.registry.collect()
        for sample in family.samples
        if sample.name == CALLS and sample.labels["grpc_method"] == method
    )


async def test_all_orders_of_all_sessions_share_one_call(avatar: Avatar) -> None:
    async with serving(avatar.root.parent) as server, client(target_of(server)) as source:

        async def of_session(number: int) -> np.ndarray:
            request_context.session_id.set(f"session-{number}")
            return await pixels(source, order(avatar))

        made = await asyncio.gather(*map(of_session, range(12)))
        alone = await pixels(source, order(avatar, due_in_ms=0))
        for each in made:
            np.testing.assert_array_equal(each, alone)
        assert (calls(server, "InferSessions"), calls(server, "InferStream")) == (1, 1)
        assert count(server, ORDERS, code="OK") == 12


async def test_an_order_that_fails_is_an_error_of_that_order_alone(avatar: Avatar) -> None:
    async with serving(avatar.root.parent) as server, client(target_of(server)) as source:
        bad = MouthOrder("nobody", "", [0], SPEECH, due_in_ms=40)
        made = await asyncio.gather(
            pixels(source, order(avatar)), pixels(source, bad), pixels(source, order(avatar)), return_exceptions=True
        )
        assert isinstance(made[1], NotFound)
        np.testing.assert_array_equal(made[0], made[2])


async def test_an_older_service_gets_a_call_for_each_order_and_is_not_asked_again(avatar: Avatar) -> None:
    async with serving(avatar.root.parent) as server, older(target_of(server)) as (target, asked), client(target) as source:
        for _ in range(3):
            made = await pixels(source, order(avatar))
        np.testing.assert_array_equal(made, await pixels(source, order(avatar, due_in_ms=0)))
        assert asked == {"InferSessions": 1, "InferStream": 4}


@asynccontextmanager
async def older(target: str) -> AsyncIterator[tuple[str, Counter[str]]]:
    """A server that passes `InferStream` on to a service, has nothing else, and counts what it is asked for."""
    asked: Counter[str] = Counter()
    async with aio.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:

        async def pass_on(request: bytes, context: Any) -> None:
            async for reply in channel.unary_stream("/inference.InferenceService/InferStream")(request):
                await context.write(reply)

        class Handler(grpc.GenericRpcHandler):
            def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
                name = handler_call_details.method.rpartition("/")[2]
                if "Infer" not in name:  # health checks
                    return None
                asked[name] += 1
                return grpc.unary_stream_rpc_method_handler(pass_on) if name == "InferStream" else None

        server = aio.server()
        server.add_generic_rpc_handlers((Handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}", asked
        finally:
            await server.stop(None)


async def test_a_session_that_one_service_refuses_gets_a_place_at_another(tmp_path: Path) -> None:
    avatar = write_avatar(tmp_path, "slow", network=slow_network(layers=32))
    asking = order(avatar, (0,), admission=inference_pb2.NEW_SESSION, due_in_ms=1000)
    until = Deadline.after(PATIENCE_S)
    async with AsyncExitStack() as services:
        full, fuller, free = [
            await services.enter_async_context(serving(tmp_path, f"limits.admit_sessions={admits}"))
            for admits in ("measured", "measured", "all")
        ]
        for each in (full, fuller, free):
            async with client(target_of(each)) as alone:
                assert await alone.load(avatar.id, force_reload=False, deadline=until) == [None]
        async with client(target_of(full), target_of(fuller), target_of(free)) as source:
            async with asyncio.timeout(PATIENCE_S):
                while not all(count(each, REFUSED, admission="new") for each in (full, fuller)):
                    assert len(await pixels(source, asking)) == 1
        async with client(target_of(full), target_of(fuller), "127.0.0.1:1", max_retries=1) as source:
            for _ in range(3):
                with pytest.raises(ResourceExhausted) as refusal:
                    await pixels(source, asking)
                assert refusal.value.retry_after_ms == 1000


async def test_when_a_service_is_lost_the_rest_of_an_order_comes_from_another(slow: Avatar) -> None:
    async with AsyncExitStack() as opened:
        servers = [await opened.enter_async_context(serving(slow.root.parent)) for _ in range(2)]
        source = await opened.enter_async_context(client(*map(target_of, servers), max_retries=3))
        wanted = order(slow, [0, 1, 2, 3])
        expected = await pixels(source, wanted)
        making = asyncio.create_task(pixels(source, wanted))
        while not any(count(server, "lipsync_running_calls") for server in servers):  # noqa: ASYNC110 - metrics have no event
            await asyncio.sleep(0.01)
        [serves] = [server for server in servers if count(server, "lipsync_running_calls")]
        await serves.face.server.stop(0)
        np.testing.assert_array_equal(await making, expected)


async def test_when_the_only_service_is_lost_all_orders_fail_as_unavailable(slow: Avatar) -> None:
    async with serving(slow.root.parent) as server, client(target_of(server)) as source:
        await source.load("slow", force_reload=False, deadline=Deadline.after(PATIENCE_S))
        making = [asyncio.create_task(pixels(source, order(slow, [0] * 20))) for _ in range(3)]
        while count(server, "lipsync_running_calls") < 3:  # noqa: ASYNC110 - metrics have no event
            await asyncio.sleep(0.01)
        await server.face.server.stop(0)
        errors = await asyncio.gather(*making, return_exceptions=True)
        assert {type(error) for error in errors} == {Unavailable}


async def test_a_service_that_takes_leave_as_it_is_called_is_unavailable(avatar: Avatar) -> None:
    with leaving_server() as target:
        async with client(target) as source:
            with pytest.raises(Unavailable):
                await pixels(source, order(avatar))


async def test_new_connections_take_the_later_orders_and_the_old_ones_end_with_theirs(slow: Avatar) -> None:
    async with serving(slow.root.parent) as server, client(target_of(server)) as source:
        wanted = order(slow, [0, 1])
        expected = await pixels(source, wanted)
        making = asyncio.create_task(pixels(source, wanted))
        while not count(server, "lipsync_running_calls"):  # noqa: ASYNC110 - metrics have no event
            await asyncio.sleep(0.01)
        renewing = asyncio.create_task(source.reconnect())
        await asyncio.sleep(0.05)  # now the connections are new
        np.testing.assert_array_equal(await pixels(source, wanted), expected)
        np.testing.assert_array_equal(await making, expected)
        await renewing
        assert calls(server, "InferSessions") == 2


def test_sessions_are_spread_over_the_replicas_behind_one_address(avatar: Avatar, tmp_path: Path) -> None:
    """The address stands for a balancer or DNS: each call that is opened goes to the next replica that is connected."""
    settings = f"models_root={avatar.root.parent}", "limits.admit_sessions=all"
    with (
        running("inference", *settings, log=tmp_path / "first") as first,
        running("inference", *settings, log=tmp_path / "second") as second,
    ):

        async def made() -> np.ndarray:
            return np.array([await asyncio.to_thread(service.metric, ORDERS) for service in (first, second)])

        async def ask() -> None:
            async with client(f"ipv4:{first.address},{second.address}") as source:
                while not (before := await made()).all():  # both are connected and known
                    await pixels(source, order(avatar, admission=inference_pb2.NEW_SESSION))
                for _ in range(20):
                    await pixels(source, order(avatar))
                assert (await made() - before).tolist() == [10, 10]

        asyncio.run(ask())


def test_a_session_stays_with_replicas_that_compute_as_before(avatar: Avatar, tmp_path: Path) -> None:
    """Behind one address, where calls in turn reach one that runs ONNX Runtime and one that runs OpenVINO."""
    settings = f"models_root={avatar.root.parent}", "limits.admit_sessions=all", "precision=float32"
    with (
        running("inference", *settings, "engine=onnxruntime", log=tmp_path / "first") as first,
        running("inference", *settings, "engine=openvino", log=tmp_path / "second") as second,
    ):

        async def ask() -> None:
            async with client(f"ipv4:{first.address},{second.address}") as source:

                async def numerics(**changes: Any) -> str:
                    groups = source.mouths(order(avatar, **changes), deadline=Deadline.after(PATIENCE_S))
                    [name] = {group.numerics async for group in groups}
                    return name

                known: set[str] = set()
                while len(known) < 2:  # both are connected
                    known.add(await numerics(admission=inference_pb2.NEW_SESSION))
                for name in known:
                    assert {await numerics(numerics=name) for _ in range(6)} == {name}
                assert {await numerics() for _ in range(4)} == known

        asyncio.run(ask())
