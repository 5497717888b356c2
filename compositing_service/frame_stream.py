"""Makes frames in order while later mouths are still being inferred: the core of compositing.

A batch call collects the frames of one stream. A live session orders few frames at a time, and has each group of mouths painted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

from avatar_kit.timeline import frame_at
from compositing_service.backgrounds.composer import AvatarComposer, Mouth, Pieces
from compositing_service.metrics import STAGE_COMPOSITE, CompositingMetrics
from compositing_service.mouth_source import Mouths
from compositing_service.outputs import Output
from compositing_service.overload import Overload
from service_kit import tracing
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.gathering import Gathered

# A job is about a millisecond of work: long against the cost of handing it over, short enough that a large group occupies
# all threads.
FRAMES_PER_JOB = 4
# A job of batch work waits no longer for sessions.
_LONGEST_WAIT_S = 0.25

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Times:
    """A frame's share of the time spent on its group, in milliseconds; zeros for idle frames."""

    queue_ms: float = 0.0
    inference_ms: float = 0.0
    audio_ms: float = 0.0
    """The time for the whole order's sound, not a share."""
    composite_ms: float = 0.0
    gpu_id: int = -1


@dataclass(frozen=True, slots=True)
class Frame:
    """One finished frame."""

    picture: bytes
    position: int
    """Its place on the avatar's timeline."""
    index: int
    """The frame of the avatar that it shows."""
    times: Times


class FrameMaker:
    """Makes frames on the threads of `pool`, for any number of streams on one event loop."""

    def __init__(self, pool: Executor, metrics: CompositingMetrics, overload: Overload, clock: Clock = SYSTEM_CLOCK) -> None:
        self.pool = pool
        self.metrics = metrics
        self._overload = overload
        self._clock = clock
        self._live_jobs = 0
        self._no_live_job = asyncio.Event()
        self._painting = Gathered(self._on_thread, most=FRAMES_PER_JOB)

    def _on_thread(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self.pool, work)

    async def paint(
        self, composer: AvatarComposer, indices: Sequence[int], group: Mouths, output: Output, *, repeated: bool = False
    ) -> list[tuple[list[Pieces], Times]]:
        """Makes the pictures of a session's group of mouths, in pieces, some in each job. Raises as its composer does.

        The caller holds the avatar. Small groups that come at the same moment share a job. `repeated`: some of the mouths were
        made for other pictures.
        """
        make = composer.repeated_pieces if repeated else composer.composite_pieces
        jobs = []
        for start in range(0, len(indices), FRAMES_PER_JOB):
            some = indices[start : start + FRAMES_PER_JOB]
            work = partial(_paint, make, some, output, group, start)
            jobs.append(self._painting.run(work, weight=len(some)))
        self._live_jobs += len(jobs)
        try:
            made = [await jobs[0]] if len(jobs) == 1 else await asyncio.gather(*jobs)
        finally:
            self._live_jobs -= len(jobs)
            if not self._live_jobs:
                self._no_live_job.set()
        for pictures, times in made:
            self._observe(pictures, times)
        return made

    async def wait_for_sessions(self) -> None:
        """Lets batch work wait under overload while frames of sessions are made, for a while."""
        if self._live_jobs and self._overload.level:
            self._no_live_job.clear()
            await self._clock.wait(self._no_live_job, _LONGEST_WAIT_S)

    def _observe(self, pictures: Sequence[object], times: Times) -> None:
        seconds = times.composite_ms * len(pictures) / 1000
        self.metrics.stages[STAGE_COMPOSITE].observe(seconds)
        tracing.past("paste", seconds, frames=len(pictures))

    async def frame_stream(
        self,
        composer: AvatarComposer,
        positions: Sequence[int],
        mouths: AsyncGenerator[Mouths, None] | None,
        output: Output,
        *,
        ahead: int,
    ) -> AsyncGenerator[Frame, None]:
        """Yields the frames at these positions of the avatar's timeline, in order. The caller holds the avatar meanwhile.

        `mouths` has one mouth for each position, and is closed at the end; None shows the avatar's pictures as they are. At most
        `ahead` frames, 1 or more, are begun and not yet taken; beyond that `mouths` is not read. Close the generator
        (`contextlib.aclosing`): that drops waiting work. Raises the errors of `mouths`, after the frames before it, and those
        of `AvatarComposer.composite`.
        """
        work = _Work(self, composer, positions, output, ahead)
        feeding = asyncio.create_task(work.feed(mouths))
        try:
            place = 0
            while (job := await work.begun.get()) is not None:
                pictures, times = await job
                if mouths is not None:
                    self._observe(pictures, times)
                for picture in pictures:
                    yield Frame(picture, positions[place], work.indices[place], times)
                    place += 1
                    work.take_one()
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            work.drop()


_Job: TypeAlias = "asyncio.Future[tuple[list[bytes], Times]]"


class _Work:
    """The frames of one stream that are begun and not yet taken."""

    def __init__(self, maker: FrameMaker, composer: AvatarComposer, positions: Sequence[int], output: Output, ahead: int) -> None:
        avatar = composer.avatar
        self.indices = [frame_at(position, avatar.frame_count, avatar.loop) for position in positions]
        self.begun: asyncio.Queue[_Job | None] = asyncio.Queue()
        """Jobs in order; None is the end."""
        self._maker, self._composer, self._output, self._ahead = maker, composer, output, ahead
        self._first = 0  # the first frame not begun
        self._waiting = 0
        self._taken = asyncio.Event()

    async def feed(self, mouths: AsyncGenerator[Mouths, None] | None) -> None:
        """Begins each group of frames as its mouths come."""
        try:
            if mouths is None:
                await self._begin(None, len(self.indices))
                return
            async with aclosing(mouths):
                async for group in mouths:
                    await self._begin(group, len(group.pixels))
        finally:
            self.begun.put_nowait(None)

    async def _begin(self, group: Mouths | None, count: int) -> None:
        """Begins the next `count` frames as room becomes free."""
        loop = asyncio.get_running_loop()
        size = min(FRAMES_PER_JOB, self._ahead)
        for start in range(0, count, size):
            indices = self.indices[self._first : self._first + min(size, count - start)]
            while self._waiting and self._waiting + len(indices) > self._ahead:
                self._taken.clear()
                await self._taken.wait()
            await self._maker.wait_for_sessions()
            self._first += len(indices)
            self._waiting += len(indices)
            job = loop.run_in_executor(self._maker.pool, self._made, indices, group, start)
            self.begun.put_nowait(job)

    def _made(self, indices: Sequence[int], group: Mouths | None, start: int) -> tuple[list[bytes], Times]:
        """Makes the pictures of these frames. Runs in a thread of the pool."""
        if group is not None:
            return _paint(self._composer.composite, indices, self._output, group, start)
        started = perf_counter()
        pictures = [self._composer.stored(index, self._output) for index in indices]
        return pictures, Times(composite_ms=ms_since(started) / len(indices))

    def take_one(self) -> None:
        """Notes that one more frame was taken."""
        self._waiting -= 1
        self._taken.set()

    def drop(self) -> None:
        """Cancels the jobs that have not begun to run."""
        while not self.begun.empty():
            job = self.begun.get_nowait()
            if job and not job.cancel() and not job.cancelled():
                job.exception()  # read, so that asyncio does not report it as forgotten


def _paint(
    make: Callable[[int, Mouth, Output], T], indices: Sequence[int], output: Output, group: Mouths, start: int
) -> tuple[list[T], Times]:
    """Makes the pictures of these frames, with the group's mouths from `start` on. Runs in a thread of the pool."""
    started = perf_counter()
    mouths = group.pixels[start : start + len(indices)]
    pictures = [make(index, mouth, output) for index, mouth in zip(indices, mouths, strict=True)]
    return pictures, Times(
        queue_ms=group.queue_ms / len(group.pixels),
        inference_ms=group.inference_ms / len(group.pixels),
        audio_ms=group.audio_ms,
        composite_ms=ms_since(started) / len(indices),
        gpu_id=group.gpu_id,
    )


def ms_since(started: float) -> float:
    """Returns the milliseconds since `perf_counter` said `started`."""
    return (perf_counter() - started) * 1000
