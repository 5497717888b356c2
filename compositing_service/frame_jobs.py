"""The frames of one batch on their way through the thread pool: painted as their mouths come, handed out in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from compositing_service.backgrounds.composer import AvatarComposer
from compositing_service.upstream.mouths import Mouths

# A job is about a millisecond of work: long against the cost of handing it over, short enough that a large group occupies
# all threads.
FRAMES_PER_JOB = 4

Paint = Callable[[], bytes]
"""Makes the picture of one frame."""


class FrameJobs:
    """Use from one event loop; `drop` whatever happens."""

    def __init__(self, pool: Executor) -> None:
        self.seconds: list[float] = []
        self._pool = pool
        self._jobs: list[asyncio.Future[tuple[list[bytes], float]]] = []

    def add(self, frames: Sequence[Paint]) -> None:
        """Starts on the next frames."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(frames), FRAMES_PER_JOB):
            self._jobs.append(loop.run_in_executor(self._pool, _paint_all, frames[start : start + FRAMES_PER_JOB]))

    async def pictures(self) -> list[bytes]:
        """All pictures in order. Raises what painting one of them raised. `seconds` then has the time of each job."""
        results = await asyncio.gather(*self._jobs)
        self.seconds = [seconds for _, seconds in results]
        return [picture for pictures, _ in results for picture in pictures]

    def drop(self) -> None:
        """Takes back what has not begun."""
        for job in self._jobs:
            if not job.cancel() and not job.cancelled():
                job.exception()  # looked at, so that asyncio does not report it as forgotten


@dataclass(frozen=True, slots=True)
class Painter:
    """The ways to paint a batch's frames with one composer."""

    composer: AvatarComposer
    indices: Sequence[int]
    """Which of the avatar's frames each frame of the batch shows."""
    jpeg_quality: int | None
    """None: raw pixels."""

    def speaking(self, mouths: Mouths) -> list[Paint]:
        """The frames of these mouths."""
        indices = self.indices[mouths.first : mouths.first + len(mouths.pixels)]
        frames = zip(indices, mouths.pixels, strict=True)
        if self.jpeg_quality is None:
            return [partial(self.composer.composite_raw, index, mouth) for index, mouth in frames]
        return [partial(self.composer.composite, index, mouth, quality=self.jpeg_quality) for index, mouth in frames]

    def idle(self) -> list[Paint]:
        """All frames, of a person who does not speak."""
        if self.jpeg_quality is None:
            return [partial(self.composer.idle_raw, index) for index in self.indices]
        return [partial(self.composer.idle, index, quality=self.jpeg_quality) for index in self.indices]


def _paint_all(frames: Sequence[Paint]) -> tuple[list[bytes], float]:
    started = perf_counter()
    pictures = [paint() for paint in frames]
    return pictures, perf_counter() - started
