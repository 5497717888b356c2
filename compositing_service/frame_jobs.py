"""The frames of one batch on their way through the thread pool: painted as their mouths come, handed out in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from compositing_service.composer import AvatarComposer, Mouth
from compositing_service.mouths import Mouths

# A job is about a millisecond of work: long against the cost of handing it over, short enough that a large group occupies
# all threads.
FRAMES_PER_JOB = 4

Paint = Callable[[int, Mouth], bytes]
"""Makes the picture of a frame from its index and its mouth."""


class FrameJobs:
    """Use from one event loop; `drop` whatever happens."""

    def __init__(self, paint: Paint, indices: Sequence[int], pool: Executor) -> None:
        """`indices`: which of the avatar's frames each frame of the batch shows."""
        self.seconds: list[float] = []
        self._paint = paint
        self._indices = indices
        self._pool = pool
        self._jobs: list[asyncio.Future[tuple[list[bytes], float]]] = []

    def add(self, mouths: Mouths) -> None:
        """Starts on the frames of these mouths. Groups come in order."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(mouths.pixels), FRAMES_PER_JOB):
            pixels = mouths.pixels[start : start + FRAMES_PER_JOB]
            first = mouths.first + start
            indices = self._indices[first : first + len(pixels)]
            self._jobs.append(loop.run_in_executor(self._pool, _paint_all, self._paint, indices, pixels))

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


def painter(composer: AvatarComposer, *, jpeg_quality: int | None) -> Paint:
    """Paints with this composer: JPEG of a quality, or raw pixels where that is None."""
    if jpeg_quality is None:
        return composer.composite_raw
    return lambda index, mouth: composer.composite(index, mouth, quality=jpeg_quality)


def _paint_all(paint: Paint, indices: Sequence[int], pixels: NDArray[np.uint8]) -> tuple[list[bytes], float]:
    started = perf_counter()
    pictures = [paint(index, mouth) for index, mouth in zip(indices, pixels, strict=True)]
    return pictures, perf_counter() - started
