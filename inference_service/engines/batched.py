"""The part of an engine that does not depend on the program that runs its network: batches, their time and their room."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from inference_service.engines.batches import BatchRoom, part_of, warmed_up
from inference_service.engines.crops import CropBank
from inference_service.engines.devices import Device
from inference_service.engines.engine import EngineError, EngineInput, EngineOutput
from inference_service.engines.outputs import Mouths
from inference_service.engines.run_sizes import runs_of
from inference_service.engines.shared_memory import SharedMemory


class BatchedEngine(ABC):
    """An `Engine` that cuts batches into runs of the sizes that it has. The last run of a batch is filled up."""

    def __init__(
        self, bank: CropBank, *, avatar_id: str, producer: str, arithmetic: str, run_frames: int, max_batch: int
    ) -> None:
        """`run_frames`: of each run; 0: all of a batch on a GPU, one on a CPU. `max_batch`: as the configuration has it."""
        is_gpu = bank.device.is_gpu
        self.avatar_id, self.producer, self.arithmetic = avatar_id, producer, arithmetic
        self.bank = bank
        self._room = BatchRoom(configured=max_batch, is_gpu=is_gpu)
        # On a GPU the first run of another size takes seconds, to choose kernels, and its results differ in rounding: by one grey
        # level between runs of 1 and 8 frames on an H100. On a CPU one frame stays in the cache.
        self.run_sizes: tuple[int, ...] = (run_frames or (self._room.most if is_gpu else 1),)
        """Frames of a run, the smallest first."""

    @property
    def run_frames(self) -> int:
        """Frames that the network runs at once at least: fewer take as long."""
        return self.run_sizes[0]

    @property
    def device(self) -> Device:
        """The device that it runs on."""
        return self.bank.device

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, where it runs in sessions that other avatars use too; else 0."""
        return 0

    @property
    def shared_memory(self) -> SharedMemory | None:
        """The memory of those sessions; None where it has sessions of its own."""
        return None

    @property
    def room(self) -> int:
        """The configured size, or more for a network that is quick enough."""
        return self._room.frames

    @property
    def short_room(self) -> int:
        """The frames that take no longer than half a frame's time, in whole runs of the network, and one run at least."""
        return self._room.short(self.run_frames)

    def warm_up(self) -> EngineOutput:
        """Runs one frame. Raises BrokenAvatar."""
        return warmed_up(self)

    def run(self, batch: EngineInput) -> EngineOutput:
        """Runs the network. Crops of `batch.frames` must be in the bank. Raises EngineError."""
        started = time.perf_counter()
        count = len(batch.windows)
        mouths = Mouths(sum(runs_of(count, self.run_sizes)), want_float=batch.want_float, want_uint8=batch.want_uint8)
        try:
            self._run(batch, mouths)
        except Exception as error:  # the programs' errors have no common base, and many are plain RuntimeErrors
            raise EngineError(self._reason(error)) from error
        finite = mouths.finite[:count] & self._takes(batch)
        seconds = time.perf_counter() - started
        self._room.note(seconds, count)
        return EngineOutput(
            mouths_float=None if mouths.floats is None else mouths.floats[:count],
            mouths_uint8=None if mouths.pixels is None else mouths.pixels[:count],
            finite=finite,
            seconds=seconds,
        )

    @abstractmethod
    def _run(self, batch: EngineInput, mouths: Mouths) -> None:
        """Runs the parts of a batch, and puts what they give into the mouths. Raises whatever its program does."""

    def _parts(self, batch: EngineInput) -> Iterator[tuple[slice, EngineInput]]:
        """Yields the part of each run, with its place among the batch's frames."""
        count, start = len(batch.windows), 0
        for size in runs_of(count, self.run_sizes):
            yield slice(start, start + size), batch if count == size else part_of(batch, start, size)
            start += size

    def _reason(self, error: Exception) -> str:
        return str(error) or type(error).__name__

    def _takes(self, batch: EngineInput) -> NDArray[np.bool_]:
        """Tells of each frame if its mouth may count as finite, whatever its values."""
        return np.ones(len(batch.windows), np.bool_)
