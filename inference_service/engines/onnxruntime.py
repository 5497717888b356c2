"""Runs an avatar's network with ONNX Runtime, on a CPU or a GPU."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnxruntime

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import MOUTH_SIZE
from inference_service.engines.crops import CropBank, Feed
from inference_service.engines.devices import Device
from inference_service.engines.engine import NO_PICTURES, EngineError, EngineInput, EngineOutput
from inference_service.engines.outputs import FloatOutputs, Mouths, PixelOutputs, RunOutputs
from inference_service.engines.sessions import open_session, run_options
from inference_service.graphs import wrapping
from inference_service.settings import OnnxSection

# Frames of a batch, on a GPU or not. On a CPU larger batches gain nothing and delay the first frame, except for a network so
# quick that QUICK_BATCH frames take no longer than QUICK_RUN_S: there handing a batch over costs as much as several of its
# frames.
DEFAULT_BATCH = {True: 8, False: 4}
QUICK_BATCH = {True: 0, False: 16}
QUICK_RUN_S = 0.01
# What a session's frames wait for at most, where one frame takes less: half a frame's time.
SHORT_RUN_S = 0.02
# A bank must have at least one slot, also when no crop is taken from it.
EMPTY_BANK = np.zeros((1, 3, MOUTH_SIZE, MOUTH_SIZE), np.uint8)
FIRST_SLOT = np.zeros(1, np.int64)


class OnnxEngine:
    """An `Engine` on ONNX Runtime. Each run on a GPU has a session of its own."""

    def __init__(self, avatar: Avatar, device: Device, options: OnnxSection, *, max_batch: int = 0) -> None:
        """Opens the sessions. `max_batch`: frames of a batch at most; 0: a number that suits the device.

        Raises BrokenAvatar and DeviceError.
        """
        model, self._network = wrapping.wrap_network(
            avatar.network_path, avatar.mask, for_cpu=not device.is_gpu, fixed_reference=avatar.reference_frame is not None
        )
        self.avatar_id = avatar.id
        self.device = device
        self.bank = CropBank(avatar, device)
        self._max_batch = max_batch or DEFAULT_BATCH[device.is_gpu]
        # Frames of each run. On a GPU the first run of another size takes seconds, to choose kernels, and its results differ in
        # rounding: by one grey level between runs of 1 and 8 frames on an H100. On a CPU one frame stays in the cache.
        self.run_frames = self._network.batch or (self._max_batch if device.is_gpu else 1)
        self._quick_batch = 0 if max_batch else QUICK_BATCH[device.is_gpu]
        self._seconds_a_frame = math.inf  # of the last run
        count = options.cuda_streams_per_worker if device.is_gpu else 1
        self._name = avatar.network_path.name
        self._sessions = [open_session(model, device, options, name=self._name) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for session in self._sessions:
            self._idle.put(self._lane(session))

    @property
    def producer(self) -> str:
        """The program that wrote the network, "" when its file does not say."""
        return self._network.producer

    @property
    def room(self) -> int:
        """The configured size, or more for a network that is quick enough."""
        return max(self._max_batch, min(self._quick_batch, int(QUICK_RUN_S / self._seconds_a_frame)))

    @property
    def short_room(self) -> int:
        """The frames that take no longer than SHORT_RUN_S, in whole runs of the network, and one run at least."""
        frames = int(SHORT_RUN_S / self._seconds_a_frame)
        return min(self.room, max(self.run_frames, frames - frames % self.run_frames))

    def warm_up(self) -> float:
        """Runs one frame on each session. Only a real run shows a missing cuDNN or a network that fails. Raises BrokenAvatar."""
        seconds = 0.0
        windows, frames = np.zeros((1, 16, 512), np.float32), np.zeros(1, np.int64)
        for _ in self._sessions:
            try:
                self.bank.ensure([0])
                output = self.run(EngineInput(windows, frames, NO_PICTURES, want_float=False, want_uint8=True))
            except EngineError as error:
                raise BrokenAvatar([f"the network failed its warm-up: {error}"]) from error
            if not output.finite.all():
                raise BrokenAvatar(["the network gives values that are not finite"])
            seconds = output.seconds
        return seconds

    def run(self, batch: EngineInput) -> EngineOutput:
        """Runs the network. Crops of `batch.frames` must be in the bank. Raises EngineError."""
        started = time.perf_counter()
        try:
            mouths = self._run(batch)
        except Exception as error:  # ONNX Runtime's errors have no common base, and those of a binding are plain RuntimeErrors
            raise EngineError(str(error) or type(error).__name__) from error
        seconds = time.perf_counter() - started
        count = len(batch.windows)
        self._seconds_a_frame = seconds / count
        return EngineOutput(
            mouths_float=None if mouths.floats is None else mouths.floats[:count],
            mouths_uint8=None if mouths.pixels is None else mouths.pixels[:count],
            finite=mouths.finite[:count],
            seconds=seconds,
        )

    def _run(self, batch: EngineInput) -> Mouths:
        count = len(batch.windows)
        size = self.run_frames
        room = -(-count // size) * size  # the last run is filled up
        mouths = Mouths(room, want_float=batch.want_float, want_uint8=batch.want_uint8)
        with self._lent_lane() as lane:
            for start in range(0, room, size):
                here = slice(start, min(start + size, room))
                self._run_once(lane, batch if here == slice(0, count) else _part(batch, here.start, here.stop - here.start))
                lane.outputs.take(mouths, here)
        return mouths

    def _run_once(self, lane: _Lane, batch: EngineInput) -> None:
        crops = self.bank.feed(batch.frames) if len(batch.frames) else Feed(EMPTY_BANK, batch.frames, FIRST_SLOT)
        inputs = {
            wrapping.BANK: crops.bank,
            wrapping.SLOTS: crops.slots,
            wrapping.REFERENCE_SLOT: crops.reference,
            wrapping.SENT_PICTURES: batch.pictures,
            self._network.windows: batch.windows.reshape(-1, 32, 16, 16),
        }
        for name, value in inputs.items():
            if name not in self._network.inputs:
                continue
            if isinstance(value, np.ndarray):
                lane.binding.bind_cpu_input(name, value)
            else:
                lane.binding.bind_ortvalue_input(name, value)
        lane.outputs.bind(lane.binding, batch)
        with run_options(self._name) as options:
            lane.session.run_with_iobinding(lane.binding, options)

    def _lane(self, session: onnxruntime.InferenceSession) -> _Lane:
        outputs = PixelOutputs if self.device.is_gpu else FloatOutputs
        return _Lane(session, session.io_binding(), outputs(self._network, self.run_frames))

    @contextmanager
    def _lent_lane(self) -> Iterator[_Lane]:
        """Lends a lane for the runs of a batch: on a GPU one of a session that no other has, on a CPU one of the one session."""
        try:
            lane = self._idle.get(block=self.device.is_gpu)
        except queue.Empty:
            lane = self._lane(self._sessions[0])
        try:
            yield lane
        finally:
            self._idle.put(lane)


@dataclass(frozen=True, slots=True)
class _Lane:
    """For one run at a time: a session, and where its inputs and outputs are."""

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding
    outputs: RunOutputs


def _part(batch: EngineInput, start: int, size: int) -> EngineInput:
    """Frames `start` to `start + size` of a batch. Missing ones at its end are filled up, with a picture that is there already
    where all are the avatar's own, else with black ones.
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
