"""Splicing alone, as far as a service could go that did nothing else: the measure for the services' figures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, thread_time

from avatar_kit.avatar import Avatar
from benchmarks.compositor import (
    DISTINCT_FRAMES,
    QUALITY,
    Way,
    compositing,
    every_frame,
    fitted_mouths,
    make_mouth,
    ready_composer,
)
from compositing_service.outputs import JpegOutput

CORES = 2
_TIMES = 40


class SplicedAlone:
    """Splices an avatar's first frames in this process, with OpenCV on one thread."""

    def __init__(self, avatar: Avatar) -> None:
        composer, mouth = ready_composer(avatar), make_mouth()
        mouths = fitted_mouths(composer, mouth)
        self._resizing = compositing(composer, mouth)
        self._fitted: Way = lambda index: composer.composite(index, mouths[index], JpegOutput(QUALITY))

    def frames_a_second(self) -> float:
        """Measures two threads with whole mouths, each of which is resized to its rectangle."""
        started = perf_counter()
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(lambda _: every_frame(self._resizing), range(_TIMES)))
        return _TIMES * DISTINCT_FRAMES / (perf_counter() - started)

    def ms_a_frame(self) -> float:
        """Measures the processor time of one thread with mouths of their rectangles' sizes."""
        started = thread_time()
        for _ in range(_TIMES):
            every_frame(self._fitted)
        return (thread_time() - started) / _TIMES / DISTINCT_FRAMES * 1000
