"""Whole sounds: several requests under way at once, results in order, nothing left running."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import grpc
import numpy as np
import pytest

from lipsync_client import AsyncClient, Client, LipsyncError
from shared_proto import compositing_pb2 as pb

from ..allocated import allocated_bytes

CLIP = np.zeros(640 * 60, np.float32)
WAIT_S = 30
QUICK = 12  # frames that are answered before others hang: three batches of four, enough for four requests under way


class Gate:
    """Holds back replies until `width` requests are in the server at once, and counts the most there ever were."""

    def __init__(self, service, width: int) -> None:
        self.together = threading.Barrier(width)
        self.inside = 0
        self.most = 0
        self.lock = threading.Lock()
        self.answer = service.answer

    def __call__(self, request, context):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.together.wait(WAIT_S)
        with self.lock:
            self.inside -= 1
        return self.answer(request)


def test_a_clip_comes_back_whole(face, service):
    batches = face(service.target, lambda client: client.batches("demo", CLIP[:-1], batch_size=24, start_frame=100))
    sizes = [(100, 4), (104, 8), (112, 8), (120, 16), (136, 16), (152, 8)]
    assert [(batch.start_frame, len(batch.frames)) for batch in batches] == sizes
    assert len({metadata["x-session-id"] for metadata in service.metadata}) == 1
    assert len({metadata["x-request-id"] for metadata in service.metadata}) == len(sizes)


def test_frames_are_the_pictures_of_the_batches(face, service):
    frames = face(service.target, lambda client: client.frames("demo", CLIP, batch_size=7, start_frame=3))
    assert frames == [str(position).encode() for position in range(3, 63)]


def test_no_sound_gives_no_frames(face, service):
    assert face(service.target, lambda client: client.frames("demo", CLIP[:0])) == []
    assert service.requests == []


@pytest.mark.parametrize("in_flight", [1, 3, 5])
def test_as_many_requests_under_way_as_asked_for(face, service, in_flight):
    """Prompt replies lead there. Later ones wait for `in_flight` requests, so fewer would hang; more never come together."""
    gate = Gate(service, in_flight)
    before = in_flight * (in_flight - 1) // 2
    total = before + 3 * in_flight

    def reply(request, context):
        """By position, as requests may arrive in another order than they were sent in."""
        return (service.answer if request.start_frame_idx < before else gate)(request, context)

    service.script.extend([reply] * total)
    sound = np.zeros(640 * total, np.float32)
    frames = face(service.target, lambda client: client.frames("demo", sound, batch_size=1, in_flight=in_flight))
    assert frames == [str(position).encode() for position in range(total)]
    assert gate.most == in_flight


def test_order_is_kept_when_replies_overtake_each_other(face, service):
    later_done = threading.Event()

    def overtaken(request, context):
        if request.start_frame_idx == 4:
            assert later_done.wait(WAIT_S)
        else:
            later_done.set()
        return service.answer(request)

    service.script.extend([service.answer, *[overtaken] * 4])
    frames = face(service.target, lambda client: client.frames("demo", CLIP, batch_size=30))
    assert frames == [str(position).encode() for position in range(60)]


def test_a_sound_that_comes_in_pieces(face, service):
    pieces = (CLIP[k : k + 1000] for k in range(0, CLIP.size, 1000))
    frames = face(service.target, lambda client: client.frames("demo", pieces, batch_size=7))
    assert frames == [str(position).encode() for position in range(60)]
    assert sum(request.batch_size for request in service.requests) == 60


def test_an_error_ends_the_clip(face, service):
    service.script.append(service.answer)
    service.fail(grpc.StatusCode.FAILED_PRECONDITION, "frame 3 is missing")
    with pytest.raises(LipsyncError, match="frame 3 is missing"):
        face(service.target, lambda client: client.frames("demo", CLIP, batch_size=30, in_flight=1))
    assert len(service.requests) == 2


class Hanging:
    """Replies to the clip's first batches, and then waits until its caller is gone."""

    def __init__(self, service) -> None:
        self.arrived = threading.Semaphore(0)
        self.dropped = threading.Semaphore(0)
        self.answer = service.answer

    def __call__(self, request, context):
        if request.start_frame_idx < QUICK:
            return self.answer(request)
        gone = threading.Event()
        over = not context.add_callback(gone.set)
        self.arrived.release()
        if over or gone.wait(WAIT_S):
            self.dropped.release()
        return self.answer(request)


@pytest.mark.parametrize("method", ["batches", "frames"])
def test_leaving_early_cancels_what_is_under_way(service, method):
    hanging = Hanging(service)
    service.script.extend([hanging] * 20)
    with Client(service.target) as client:
        results = getattr(client, method)("demo", CLIP, batch_size=4, in_flight=4)
        for _ in range(QUICK // (4 if method == "batches" else 1)):
            next(results)
        assert all(hanging.arrived.acquire(timeout=WAIT_S) for _ in range(3))
        results.close()
        assert all(hanging.dropped.acquire(timeout=WAIT_S) for _ in range(3))


@pytest.mark.parametrize("method", ["batches", "frames"])
async def test_leaving_early_cancels_what_is_under_way_on_asyncio(service, method):
    hanging = Hanging(service)
    service.script.extend([hanging] * 20)
    async with AsyncClient(service.target) as client:
        async with aclosing(getattr(client, method)("demo", CLIP, batch_size=4, in_flight=4)) as results:
            for _ in range(QUICK // (4 if method == "batches" else 1)):
                await anext(results)
            for _ in range(3):
                assert await asyncio.to_thread(hanging.arrived.acquire, timeout=WAIT_S)
        for _ in range(3):
            assert await asyncio.to_thread(hanging.dropped.acquire, timeout=WAIT_S)


async def test_cancelling_the_task_cancels_the_call(service):
    hanging = Hanging(service)
    service.script.append(hanging)
    async with AsyncClient(service.target) as client:
        task = asyncio.create_task(client.composite("demo", CLIP, batch_size=1, start_frame=101))
        assert await asyncio.to_thread(hanging.arrived.acquire, timeout=WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(hanging.dropped.acquire, timeout=WAIT_S)
        await client.composite("demo", CLIP, batch_size=1, start_frame=102)
    # What a caller cancels is not sent again, as what a load balancer cancels is.
    assert [request.start_frame_idx for request in service.requests] == [101, 102]


@pytest.mark.parametrize("how", ["the task of a call is cancelled", "a clip is left", "the client is closed"])
async def test_replies_on_their_way_to_callers_that_give_up_are_freed(service, how):
    picture = bytes(1 << 20)
    sent = threading.Event()

    def reply(request, _):
        sent.set()
        return pb.CompositeBatchResponse(success=True, composited_frames=[picture] * request.batch_size)

    async def give_up(client):
        sent.clear()
        service.script.append(reply)
        call = asyncio.create_task(client.composite("demo", CLIP, batch_size=1))
        assert await asyncio.to_thread(sent.wait, WAIT_S)
        pause()
        call.cancel()
        await asyncio.wait([call])

    async def leave(client):
        """The first reply is taken, another one comes."""
        service.script.extend([reply] * 2)
        async with aclosing(client.batches("demo", CLIP, batch_size=1, in_flight=2)) as batches:
            await anext(batches)
            sent.clear()
            await asyncio.sleep(0)
            assert await asyncio.to_thread(sent.wait, WAIT_S)
            pause()
        service.script.clear()

    async def close(_):
        """Closes a client in the middle of a call."""
        sent.clear()
        service.script.append(reply)
        client = AsyncClient(service.target)
        call = asyncio.create_task(client.composite("demo", CLIP, batch_size=1))
        assert await asyncio.to_thread(sent.wait, WAIT_S)
        pause()
        await client.close()
        await asyncio.wait([call])

    def pause():
        """Keeps the event loop from taking what arrives."""
        threading.Event().wait(0.03)

    one = {"the task of a call is cancelled": give_up, "a clip is left": leave, "the client is closed": close}[how]
    async with AsyncClient(service.target) as client:
        for _ in range(5):
            await one(client)
        before = allocated_bytes()
        for _ in range(20):
            await one(client)
        await asyncio.sleep(0.3)
        assert allocated_bytes() - before < 5 * len(picture)


def test_a_client_serves_many_threads(service):
    from concurrent.futures import ThreadPoolExecutor

    with Client(service.target) as client, ThreadPoolExecutor(8) as pool:
        clips = list(pool.map(lambda k: list(client.frames("demo", CLIP, start_frame=100 * k, batch_size=9)), range(8)))
    assert clips == [[str(100 * k + j).encode() for j in range(60)] for k in range(8)]
