"""Runs one avatar's network on one device: a batch of frames in, mouths out."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import MOUTH_SIZE
from inference_service import graph
from inference_service.crops import CropBank
from inference_service.devices import Device
from inference_service.sessions import RUN_ERRORS, open_session
from inference_service.settings import OnnxSection

NO_PICTURES = np.empty((0, 6, MOUTH_SIZE, MOUTH_SIZE), np.float32)
# A bank must have at least one slot, also when nothing is taken from it.
EMPTY_BANK = np.zeros((1, 3, MOUTH_SIZE, MOUTH_SIZE), np.uint8)


class EngineError(RuntimeError):
    """The network failed in a run; the text is for the log."""


@dataclass(frozen=True)
class EngineInput:
    """A batch: first frames from the avatar's own crops, then frames whose pictures the caller sent."""

    windows: NDArray[np.float32]  # [n + m, 16, 512]
    frames: NDArray[np.int64]  # [n]
    pictures: NDArray[np.float32]  # [m, 6, 320, 320]
    want_float: bool
    want_uint8: bool


@dataclass(frozen=True)
class EngineOutput:
    """Mouths of a batch, and which of them are finite."""

    mouths_float: NDArray[np.float32] | None  # [n + m, 3, 320, 320]
    mouths_uint8: NDArray[np.uint8] | None  # [n + m, 320, 320, 3]
    finite: NDArray[np.bool_]  # [n + m]
    seconds: float


class Engine:
    """One avatar on one device. `run` may be called from several threads; each run has a session of its own."""

    def __init__(self, avatar: Avatar, device: Device, options: OnnxSection) -> None:
        """Opens the sessions. Raises BrokenAvatar and DeviceError."""
        model, self.fixed_batch = graph.wrap_network(avatar.network_path, avatar.mask)
        self.device = device
        self.bank = CropBank(avatar, device)
        count = options.cuda_streams_per_worker if device.is_gpu else 1
        self._sessions = [open_session(model, device, options, what=avatar.network_path.name) for _ in range(count)]
        self._idle: queue.SimpleQueue[onnxruntime.InferenceSession] = queue.SimpleQueue()
        for session in self._sessions:
            self._idle.put(session)

    def warm_up(self, max_batch: int) -> None:
        """Runs the smallest and the largest batch. Only a real run shows a missing cuDNN or a network that fails.

        Raises BrokenAvatar.
        """
        for size in sorted({1, max_batch}):
            windows = np.zeros((size, 16, 512), np.float32)
            frames = np.zeros(size, np.int64)
            for _ in self._sessions:
                try:
                    self.bank.ensure([0])
                    output = self.run(EngineInput(windows, frames, NO_PICTURES, want_float=False, want_uint8=True))
                except EngineError as error:
                    raise BrokenAvatar([f"the network failed its warm-up: {error}"]) from error
                if not output.finite.all():
                    raise BrokenAvatar(["the network gives values that are not finite"])

    def run(self, batch: EngineInput) -> EngineOutput:
        """Runs the network. Crops of `batch.frames` must be in the bank. Blocking. Raises EngineError."""
        started = time.perf_counter()
        parts = [self._run_once(part) for part in self._parts(batch)]
        if len(parts) == 1:
            floats, pixels, sums = parts[0]
        else:
            floats = np.concatenate([part[0] for part in parts]) if batch.want_float else None
            pixels = np.concatenate([part[1] for part in parts]) if batch.want_uint8 else None
            sums = np.concatenate([part[2] for part in parts])
        return EngineOutput(floats, pixels, np.isfinite(sums), time.perf_counter() - started)

    def _parts(self, batch: EngineInput) -> Iterator[EngineInput]:
        """The batch in pieces that a network with a fixed batch size takes; the last is filled up by `_run_once`."""
        if self.fixed_batch is None:
            yield batch
            return
        size, own = self.fixed_batch, len(batch.frames)
        for start in range(0, len(batch.windows), size):
            stop = start + size
            yield EngineInput(
                batch.windows[start:stop],
                batch.frames[start:stop],
                batch.pictures[max(start - own, 0) : max(stop - own, 0)],
                batch.want_float,
                batch.want_uint8,
            )

    def _run_once(self, batch: EngineInput) -> tuple[NDArray[np.float32] | None, NDArray[np.uint8] | None, NDArray[np.float32]]:
        count = len(batch.windows)
        batch = self._filled_up(batch)
        size = len(batch.windows)
        floats = np.empty((size, 3, MOUTH_SIZE, MOUTH_SIZE), np.float32) if batch.want_float else None
        pixels = np.empty((size, MOUTH_SIZE, MOUTH_SIZE, 3), np.uint8) if batch.want_uint8 else None
        sums = np.empty(size, np.float32)
        with self._session() as session:
            binding = session.io_binding()
            self._bind_inputs(binding, batch)
            for name, array in ((graph.MOUTHS_FLOAT, floats), (graph.MOUTHS_UINT8, pixels), (graph.SUMS, sums)):
                if array is not None:
                    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            try:
                session.run_with_iobinding(binding)
            except RUN_ERRORS as error:
                raise EngineError(str(error)) from error
        return (
            floats if floats is None else floats[:count],
            pixels if pixels is None else pixels[:count],
            sums[:count],
        )

    def _filled_up(self, batch: EngineInput) -> EngineInput:
        lacking = (self.fixed_batch or 0) - len(batch.windows)
        if lacking <= 0:
            return batch
        windows = np.concatenate([batch.windows, np.repeat(batch.windows[-1:], lacking, axis=0)])
        pictures = np.concatenate([batch.pictures, np.zeros((lacking, *NO_PICTURES.shape[1:]), np.float32)])
        return EngineInput(windows, batch.frames, pictures, batch.want_float, batch.want_uint8)

    def _bind_inputs(self, binding: onnxruntime.IOBinding, batch: EngineInput) -> None:
        bank, slots = self.bank.feed(batch.frames) if len(batch.frames) else (EMPTY_BANK, batch.frames)
        if isinstance(bank, np.ndarray):
            binding.bind_cpu_input(graph.BANK, bank)
        else:
            binding.bind_ortvalue_input(graph.BANK, bank)
        binding.bind_cpu_input(graph.SLOTS, slots)
        binding.bind_cpu_input(graph.SENT_PICTURES, batch.pictures)
        binding.bind_cpu_input(graph.WINDOWS, batch.windows.reshape(-1, 32, 16, 16))

    @contextmanager
    def _session(self) -> Iterator[onnxruntime.InferenceSession]:
        """A session for one run: on a GPU one that no other run has, on a CPU the one that all share."""
        if not self.device.is_gpu:
            yield self._sessions[0]
            return
        session = self._idle.get()
        try:
            yield session
        finally:
            self._idle.put(session)
