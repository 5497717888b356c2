"""The way of a batch's frames through the thread pool."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from compositing_service.frame_jobs import FRAMES_PER_JOB, FrameJobs
from compositing_service.mouths import Mouths

INDICES = [10 + k for k in range(24)]


def mouths(first: int, count: int) -> Mouths:
    pixels = np.arange(first, first + count, dtype=np.uint8).reshape(count, 1, 1, 1)
    return Mouths(first, pixels, inference_ms=0, audio_ms=0, gpu_id=0)


def paint(index: int, mouth: np.ndarray) -> bytes:
    return bytes([index, int(mouth[0, 0, 0])])


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.mark.parametrize("size", [1, 3, 4, 5, 24])
async def test_pictures_come_in_order_with_their_own_index_and_mouth(pool: ThreadPoolExecutor, size: int) -> None:
    jobs = FrameJobs(paint, INDICES, pool)
    for first in range(0, 24, size):
        jobs.add(mouths(first, min(size, 24 - first)))
    assert await jobs.pictures() == [bytes([10 + k, k]) for k in range(24)]
    assert all(seconds >= 0 for seconds in jobs.seconds)


async def test_a_large_group_is_shared_out(pool: ThreadPoolExecutor) -> None:
    threads: set[int] = set()
    meeting = threading.Barrier(2, timeout=10)

    def meet(index: int, mouth: np.ndarray) -> bytes:
        threads.add(threading.get_ident())
        if index in {INDICES[0], INDICES[FRAMES_PER_JOB]}:
            meeting.wait()
        return b""

    jobs = FrameJobs(meet, INDICES, pool)
    jobs.add(mouths(0, 24))
    await jobs.pictures()
    assert len(threads) == 2


async def test_what_painting_raises_comes_out_and_the_rest_is_dropped() -> None:
    painted = []

    def fail(index: int, mouth: np.ndarray) -> bytes:
        painted.append(index)
        raise LookupError(index)

    with ThreadPoolExecutor(1) as pool:
        jobs = FrameJobs(fail, INDICES, pool)
        jobs.add(mouths(0, 24))
        with pytest.raises(LookupError):
            await jobs.pictures()
        jobs.drop()
        await asyncio.sleep(0)
    assert len(painted) <= 24 // FRAMES_PER_JOB


async def test_dropped_jobs_do_not_run() -> None:
    begun, go_on = threading.Event(), threading.Event()
    painted = []

    def slow(index: int, mouth: np.ndarray) -> bytes:
        painted.append(index)
        begun.set()
        go_on.wait(10)
        return b""

    with ThreadPoolExecutor(1) as pool:
        jobs = FrameJobs(slow, INDICES, pool)
        jobs.add(mouths(0, 24))
        await asyncio.to_thread(begun.wait, 10)
        jobs.drop()
        await asyncio.sleep(0)  # the loop hands cancellations on to the pool
        go_on.set()
    assert painted == INDICES[:FRAMES_PER_JOB]
