"""The lasting call for requests of live sessions at a real service on a real socket: each ends as in a call of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from inference_service.service import inference_service
from inference_service.settings import InferenceSettings
from service_kit.life import RunningService
from service_kit.settings import load_settings
from service_kit.statuses import PUSHBACK_KEY
from shared_proto import inference_pb2 as pb
from shared_proto import mouth_region
from shared_proto.inference_pb2_grpc import InferenceServiceStub

from ..end_to_end.avatars import slow_network
from .conftest import MakeAvatar
from .test_live_requests import SOUND, of

PATIENCE_S = 120
ORDERS = "lipsync_inference_session_orders_total"


class Calling:
    """A service, and one call of InferSessions at it."""

    def __init__(self, server: RunningService[Any], stub: Any) -> None:
        self.server, self.stub = server, stub
        self.call = stub.InferSessions(timeout=PATIENCE_S)
        self.early: list[tuple[pb.SessionReply, bytes]] = []

    async def send(self, *orders: pb.SessionOrder, cancelled: Iterable[int] = ()) -> None:
        await self.call.write(pb.SessionOrders(orders=orders, cancelled=cancelled))

    async def next(self) -> tuple[pb.SessionReply, bytes]:
        """Returns the next reply and its mouths."""
        while not self.early:
            message = await self.call.read()
            assert isinstance(message, pb.SessionReplies), await self.call.details()
            at = 0
            for reply in message.replies:
                region = reply.region
                sizes = zip(region.widths, region.heights, strict=True) if region.widths else [(320, 320)] * region.frame_count
                end = at + sum(3 * width * height for width, height in sizes)
                self.early.append((reply, message.mouths[at:end]))
                at = end
            assert at == len(message.mouths)
        return self.early.pop(0)

    async def ended(self) -> grpc.StatusCode:
        """Waits for the end of the call; nothing more may come."""
        assert await self.call.read() is aio.EOF
        return await self.call.code()

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until(self, name: str, value: float, **labels: str) -> None:
        while self.metric(name, **labels) != value:  # noqa: ASYNC110 - metrics have no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def calling(root: Path, *overrides: str) -> AsyncIterator[Calling]:
    wanted = ["server.port=127.0.0.1:0", "metrics.enabled=false", f"models_root={root / 'models'}", "gpus.enabled=false"]
    settings = load_settings(InferenceSettings, config=None, environ={}, overrides=[*wanted, *overrides])
    async with (
        asyncio.timeout(PATIENCE_S),
        RunningService(inference_service(settings)) as server,
        aio.insecure_channel(f"127.0.0.1:{server.address.port}", options=[("grpc.max_receive_message_length", -1)]) as channel,
    ):
        calling = Calling(server, InferenceServiceStub(channel))
        first = await calling.call.read()
        assert first.replica
        assert not first.replies
        yield calling
        calling.call.cancel()


def request(avatar_id: str = "someone", batch_size: int = 2, **fields: Any) -> pb.InferBatchRequest:
    fields = {"raw_audio": SOUND, "mouth_format": pb.UINT8_BGR, "mouth_fit": pb.FIT_MOUTH, "due_in_ms": 40} | fields
    return pb.InferBatchRequest(model_id=avatar_id, batch_size=batch_size, **fields)


def order(order_id: int, *asked: Any, session: str = "a", timeout_ms: int = 0, **fields: Any) -> pb.SessionOrder:
    return pb.SessionOrder(
        id=order_id,
        session_id=session,
        request_id=f"request-{order_id}",
        timeout_ms=timeout_ms,
        request=request(*asked, **fields),
    )


async def test_the_orders_of_many_sessions_have_the_bytes_of_calls_of_their_own(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar()
    async with calling(tmp_path) as service:
        wanted = {number: request(batch_size=1 + number % 5, return_rows=number % 2 == 0) for number in range(20)}
        await service.send(
            *(pb.SessionOrder(id=number, session_id=f"session-{number}", request=each) for number, each in wanted.items())
        )
        made: dict[int, list[tuple[pb.MouthRegion, bytes]]] = {number: [] for number in wanted}
        while any(sum(region.frame_count for region, _ in made[n]) < wanted[n].batch_size for n in wanted):
            reply, mouths = await service.next()
            made[reply.id].append((reply.region, mouths))
        for number, each in wanted.items():
            regions = [region async for region in service.stub.InferStream(each, **of(f"session-{number}"))]
            assert b"".join(mouths for _, mouths in made[number]) == b"".join(region.data for region in regions)
            assert made[number][0][0].feature_rows == regions[0].feature_rows
            assert made[number][0][0].first_frame == 0
        await service.until(ORDERS, 20.0, code="OK")


async def test_an_order_that_fails_has_the_status_of_a_call_of_its_own_and_harms_no_other(
    make_avatar: MakeAvatar, tmp_path: Path
) -> None:
    make_avatar()
    make_avatar("broken", model=b"no network")
    bad = {
        1: request("nobody"),
        2: request("broken"),
        3: request(batch_size=0, audio_start_frame=-3),
        4: request(frame_indices=[0, 99]),
        5: request(avatar_version="another"),
    }
    async with calling(tmp_path) as service:
        orders = [pb.SessionOrder(id=number, session_id="a", request=each) for number, each in bad.items()]
        await service.send(order(10), *orders, order(11))
        replies, frames = dict[int, pb.SessionReply](), {10: 0, 11: 0}
        while len(replies) < 7 or set(frames.values()) != {2}:
            reply, _ = await service.next()
            replies[reply.id] = reply
            if reply.id in frames:
                frames[reply.id] += reply.region.frame_count
        for number, each in bad.items():
            with pytest.raises(aio.AioRpcError) as caught:
                await service.stub.InferStream(each, timeout=PATIENCE_S).read()
            failure, own = replies[number].failure, caught.value
            assert (failure.code, failure.message) == (own.code().value[0], own.details())
            details = {pair.key: pair.value for pair in failure.trailing if pair.key != "x-request-id"}
            assert details == {key: value for key, value in own.trailing_metadata() if key != "x-request-id"}


async def test_an_order_that_is_cancelled_gives_its_place_back_and_the_others_go_on(
    make_avatar: MakeAvatar, tmp_path: Path
) -> None:
    make_avatar("slow", model=slow_network(layers=8))
    async with calling(tmp_path) as service:
        await service.send(order(1, "slow", 50), order(2, "slow", 1, session="b"))
        await service.send(cancelled=[1, 77])
        seen = set()
        while 2 not in seen:
            seen.add((await service.next())[0].id)
        await service.until("lipsync_inference_requests", 0.0)
        await service.until(ORDERS, 1.0, code="CANCELLED")
        await service.send(order(3, "slow", 1))
        while (await service.next())[0].id != 3:
            pass


async def test_an_order_ends_at_its_time(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar("slow", model=slow_network(layers=8))
    async with calling(tmp_path) as service:
        await service.stub.LoadModel(pb.LoadModelRequest(model_id="slow"), timeout=PATIENCE_S)
        await service.send(order(1, "slow", 50, timeout_ms=300))
        while not (reply := (await service.next())[0]).HasField("failure"):
            pass
        assert reply.failure.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_an_avatar_that_is_slow_holds_up_no_other(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar()
    make_avatar("slow", model=slow_network())
    async with calling(tmp_path, "server.worker_count_per_gpu=2") as service:
        for avatar_id in ("someone", "slow"):
            await service.stub.LoadModel(pb.LoadModelRequest(model_id=avatar_id), timeout=PATIENCE_S)
        await service.send(order(1, "slow", 50))
        for number in range(2, 7):
            await service.send(order(number, session="b"))
            while (reply := (await service.next())[0]).id != number:
                assert reply.region.first_frame + reply.region.frame_count < 50, "the slow one is through already"


async def test_orders_count_as_running_calls_and_the_call_itself_does_not(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar("slow", model=slow_network(layers=8))
    async with calling(tmp_path, "server.max_running_calls=1") as service:
        assert service.metric("lipsync_running_calls") == 0
        await service.send(order(1, "slow", 50))
        await service.until("lipsync_running_calls", 1.0)
        await service.send(order(2, "slow", session="b"))
        while (reply := (await service.next())[0]).id != 2:
            pass
        assert reply.failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert PUSHBACK_KEY in {pair.key for pair in reply.failure.trailing}
        await service.send(cancelled=[1])
        await service.until("lipsync_running_calls", 0.0)


async def test_the_call_ends_when_the_caller_has_sent_all_and_has_all(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar()
    async with calling(tmp_path) as service:
        await service.send(*(order(number, "someone", 5, session=f"{number}") for number in range(10)))
        await service.call.done_writing()
        frames = 0
        while frames < 50:
            frames += (await service.next())[0].region.frame_count
        assert await service.ended() is grpc.StatusCode.OK


async def test_a_service_that_drains_ends_the_orders_under_way_and_then_the_call(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar("slow", model=slow_network(layers=8))
    async with calling(tmp_path) as service:
        await service.send(order(1, "slow", 4))
        await service.until("lipsync_running_calls", 1.0)
        service.server.draining.set()
        frames = 0
        while frames < 4:
            frames += (await service.next())[0].region.frame_count
        assert await service.ended() is grpc.StatusCode.OK
        assert (await service.stub.InferBatch(request("slow", 1), timeout=PATIENCE_S)).outputs, "other calls are still served"


@pytest.mark.parametrize(
    "sent", [b"\xff\xff", pb.SessionOrders(orders=[order(1, "slow", 50), order(1, "slow", 50)]).SerializeToString()]
)
async def test_what_breaks_the_contract_ends_the_call_with_a_reason(make_avatar: MakeAvatar, tmp_path: Path, sent: bytes) -> None:
    make_avatar("slow", model=slow_network(layers=8))
    async with calling(tmp_path) as service:
        async with aio.insecure_channel(f"127.0.0.1:{service.server.address.port}") as other:
            call = other.stream_stream("/inference.InferenceService/InferSessions")(timeout=PATIENCE_S)
            assert mouth_region.decode_replies(await call.read()).fields.replica
            await call.write(sent)
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert await call.details()
        await service.until("lipsync_running_calls", 0.0)


async def test_a_caller_that_vanishes_leaves_no_order_behind(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar("slow", model=slow_network(layers=8))
    async with calling(tmp_path) as service:
        await service.send(order(1, "slow", 50), order(2, "slow", 50, session="b"))
        await service.until("lipsync_running_calls", 2.0)
        service.call.cancel()
        await service.until("lipsync_running_calls", 0.0)
        await service.until("lipsync_inference_requests", 0.0)
