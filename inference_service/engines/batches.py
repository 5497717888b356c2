"""Cuts batches into runs of a network, and says how many frames a batch should hold."""

from __future__ import annotations

import math

import numpy as np

from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_files import runtime_reason
from inference_service.engines.engine import NO_PICTURES, Engine, EngineError, EngineInput, EngineOutput

# Frames of a batch, on a GPU or not. On a CPU larger batches gain nothing and delay the first frame, except for a network so
# quick that QUICK_BATCH frames take no longer than QUICK_RUN_S: there handing a batch over costs as much as several of its
# frames.
DEFAULT_BATCH = {True: 8, False: 4}
QUICK_BATCH = {True: 0, False: 16}
QUICK_RUN_S = 0.01
# What a session's frames wait for at most, where one frame takes less: half a frame's time.
SHORT_RUN_S = 0.02


class BatchRoom:
    """The number of frames that the next batch should hold, by the speed of the last one."""

    def __init__(self, *, configured: int, is_gpu: bool) -> None:
        """`configured`: frames of a batch at most; 0: a number that suits the device."""
        self.most = configured or DEFAULT_BATCH[is_gpu]
        self._quick = 0 if configured else QUICK_BATCH[is_gpu]
        self._seconds_a_frame = math.inf

    def note(self, seconds: float, frames: int) -> None:
        """Takes the time of a batch of so many frames."""
        self._seconds_a_frame = seconds / frames

    @property
    def frames(self) -> int:
        """The configured size, or more for a network that is quick enough."""
        return max(self.most, min(self._quick, int(QUICK_RUN_S / self._seconds_a_frame)))

    def short(self, run_frames: int) -> int:
        """Returns the frames that take no longer than SHORT_RUN_S, in whole runs of the network, and one run at least."""
        frames = int(SHORT_RUN_S / self._seconds_a_frame)
        return min(self.frames, max(run_frames, frames - frames % run_frames))


def part_of(batch: EngineInput, start: int, size: int) -> EngineInput:
    """Returns frames `start` to `start + size` of a batch.

    Missing ones at its end are filled up, with a picture that is there already where all are the avatar's own, else with black
    ones.
    """
    own, stop = len(batch.frames), start + size
    windows = batch.windows[start:stop]
    frames = batch.frames[start:stop]
    pictures = batch.pictures[max(start - own, 0) : max(stop - own, 0)]
    if lacking := size - len(windows):
        windows = np.concatenate([windows, np.zeros((lacking, *windows.shape[1:]), np.float32)])
        if len(pictures):
            pictures = np.concatenate([pictures, np.zeros((lacking, *pictures.shape[1:]), np.float32)])
        else:
            frames = np.concatenate([frames, np.full(lacking, frames[-1])])
    return EngineInput(windows, frames, pictures, batch.want_float, batch.want_uint8)


def warmed_up(engine: Engine) -> EngineOutput:
    """Runs an engine on its avatar's first picture, in both formats. Raises BrokenAvatar where the network cannot be served."""
    windows = np.random.default_rng(1).uniform(0, 1, (1, 16, 512)).astype(np.float32)  # the same each time, as pictures may be
    frames = np.zeros(1, np.int64)
    engine.bank.ensure([0])
    try:
        output = engine.run(EngineInput(windows, frames, NO_PICTURES, want_float=True, want_uint8=True))
    except EngineError as error:
        raise BrokenAvatar([f"the network failed its warm-up: {runtime_reason(error)}"]) from error
    if not output.finite.all():
        raise BrokenAvatar(["the network gives values that are not finite"])
    return output
