"""The way of a batch's frames through the thread pool."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import numpy as np
import pytest

from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.frame_jobs import FRAMES_PER_JOB, FrameJobs, Paint, Painter
from compositing_service.upstream.mouths import Mouths


def mouths(first: int, count: int) -> Mouths:
    pixels = np.arange(first, first + count, dtype=np.uint8).reshape(count, 1, 1, 1)
    return Mouths(first, pixels, inference_ms=0, audio_ms=0, gpu_id=0)


def frames(paint: Callable[[int], bytes], first: int, end: int) -> list[Paint]:
    return [partial(paint, place) for place in range(first, end)]


class Composer:
    """Says what it was asked for."""

    def composite(self, index: int, mouth: np.ndarray, *, quality: int) -> tuple[Any, ...]:
        return "jpeg", index, int(mouth[0, 0, 0]), quality

    def composite_raw(self, index: int, mouth: np.ndarray) -> tuple[Any, ...]:
        return "raw", index, int(mouth[0, 0, 0])

    def idle(self, index: int, *, quality: int) -> tuple[Any, ...]:
        return "idle jpeg", index, quality

    def idle_raw(self, index: int) -> tuple[Any, ...]:
        return "idle raw", index


def painter(*, jpeg_quality: int | None) -> Painter:
    return Painter(cast("AvatarComposer", Composer()), [10 + k for k in range(24)], jpeg_quality)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.mark.parametrize("size", [1, 3, 4, 5, 24])
async def test_pictures_come_in_order(pool: ThreadPoolExecutor, size: int) -> None:
    jobs = FrameJobs(pool)
    for first in range(0, 24, size):
        jobs.add(frames(lambda place: bytes([place]), first, min(first + size, 24)))
    assert await jobs.pictures() == [bytes([place]) for place in range(24)]
    assert all(seconds >= 0 for seconds in jobs.seconds)


def test_a_mouth_meets_the_frame_of_its_place() -> None:
    group = mouths(5, 3)
    jpegs, raws = (painter(jpeg_quality=quality).speaking(group) for quality in (60, None))
    assert [paint() for paint in jpegs] == [("jpeg", 15, 5, 60), ("jpeg", 16, 6, 60), ("jpeg", 17, 7, 60)]
    assert [paint() for paint in raws] == [("raw", 15, 5), ("raw", 16, 6), ("raw", 17, 7)]


def test_idle_frames_are_the_whole_batch() -> None:
    assert [paint() for paint in painter(jpeg_quality=60).idle()] == [("idle jpeg", 10 + k, 60) for k in range(24)]
    assert [paint() for paint in painter(jpeg_quality=None).idle()] == [("idle raw", 10 + k) for k in range(24)]


async def test_a_large_group_is_shared_out(pool: ThreadPoolExecutor) -> None:
    threads: set[int] = set()
    meeting = threading.Barrier(2, timeout=10)

    def meet(place: int) -> bytes:
        threads.add(threading.get_ident())
        if place in {0, FRAMES_PER_JOB}:
            meeting.wait()
        return b""

    jobs = FrameJobs(pool)
    jobs.add(frames(meet, 0, 24))
    await jobs.pictures()
    assert len(threads) == 2


async def test_what_painting_raises_comes_out_and_the_rest_is_dropped() -> None:
    painted = []

    def fail(place: int) -> bytes:
        painted.append(place)
        raise LookupError(place)

    with ThreadPoolExecutor(1) as pool:
        jobs = FrameJobs(pool)
        jobs.add(frames(fail, 0, 24))
        with pytest.raises(LookupError):
            await jobs.pictures()
        jobs.drop()
        await asyncio.sleep(0)
    assert len(painted) <= 24 // FRAMES_PER_JOB


async def test_dropped_jobs_do_not_run() -> None:
    begun, go_on = threading.Event(), threading.Event()
    painted = []

    def slow(place: int) -> bytes:
        painted.append(place)
        begun.set()
        go_on.wait(10)
        return b""

    with ThreadPoolExecutor(1) as pool:
        jobs = FrameJobs(pool)
        jobs.add(frames(slow, 0, 24))
        await asyncio.to_thread(begun.wait, 10)
        jobs.drop()
        await asyncio.sleep(0)  # the loop hands cancellations on to the pool
        go_on.set()
    assert painted == list(range(FRAMES_PER_JOB))
