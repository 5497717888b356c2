"""Runs an avatar's network with OpenVINO on a CPU, in bfloat16 or float32.

The network is compiled as its file has it, for a run of one frame: that is its quickest form there. OpenVINO makes finite values
of some that are not, so what goes in is looked at too.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import MOUTH_SIZE
from avatar_kit.onnx_files import load_model_with_digest
from avatar_kit.onnx_io import network_io
from inference_service.engines import openvino_models
from inference_service.engines.batches import BatchRoom, part_of, warmed_up
from inference_service.engines.crops import CropBank
from inference_service.engines.devices import Device
from inference_service.engines.engine import EngineError, EngineInput, EngineOutput
from inference_service.engines.load_cache import NOTHING_KEPT, LoadCache
from inference_service.engines.openvino_models import Precision
from inference_service.engines.outputs import FloatOutputs, Mouths
from inference_service.settings import OnnxSection

_255 = np.float32(255)


class OpenVinoEngine:
    """An `Engine` on OpenVINO. Runs on several threads at the same time share its threads."""

    weight_bytes = 0
    shared_memory = None

    def __init__(
        self,
        avatar: Avatar,
        device: Device,
        options: OnnxSection,
        *,
        precision: Precision,
        max_batch: int = 0,
        network: tuple[onnx.ModelProto, str] | None = None,
        cache: LoadCache = NOTHING_KEPT,
    ) -> None:
        """Compiles the network. `max_batch`: frames of a batch at most; 0: a number that suits the CPU.

        `network`: the avatar's model, which is changed, and its digest, if it was read before. `cache`: keeps what was compiled.
        Raises BrokenAvatar, and DeviceError where OpenVINO cannot be used.
        """
        model, digest = network or load_model_with_digest(avatar.network_path)
        self._io = network_io(model)
        self.avatar_id = avatar.id
        self.device = device
        self.bank = CropBank(avatar, device)
        self.producer = str(model.producer_name)
        self.run_frames = self._io.batch or 1
        self._room = BatchRoom(configured=max_batch, is_gpu=False)
        self._name = avatar.network_path.name
        self._kept = avatar.mask.kept().astype(np.float32)  # [320, 320], 0 under the mask
        self._has_reference = avatar.reference_frame is not None
        self._network = openvino_models.compiled(
            model,
            {self._io.visual: (self.run_frames, 6, MOUTH_SIZE, MOUTH_SIZE), self._io.audio: (self.run_frames, 32, 16, 16)},
            output=self._io.output,
            precision=precision,
            options=options,
            name=self._name,
            cache=cache,
            digest=digest,
        )
        self.arithmetic = openvino_models.arithmetic(precision)
        self._idle: queue.SimpleQueue[_Lane] = queue.SimpleQueue()

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
        count, size = len(batch.windows), self.run_frames
        room = -(-count // size) * size  # the last run is filled up
        mouths = Mouths(room, want_float=batch.want_float, want_uint8=batch.want_uint8)
        try:
            with self._lent_lane() as lane:
                for start in range(0, room, size):
                    self._run_once(lane, part_of(batch, start, size))
                    lane.outputs.take(mouths, slice(start, start + size))
        except Exception as error:  # OpenVINO's are plain RuntimeErrors
            raise EngineError(openvino_models.reason(error)) from error
        finite = mouths.finite[:count] & np.isfinite(batch.windows).all(axis=(1, 2))
        if len(batch.pictures):
            finite[len(batch.frames) :] &= np.isfinite(batch.pictures).all(axis=(1, 2, 3))
        seconds = time.perf_counter() - started
        self._room.note(seconds, count)
        return EngineOutput(
            mouths_float=None if mouths.floats is None else mouths.floats[:count],
            mouths_uint8=None if mouths.pixels is None else mouths.pixels[:count],
            finite=finite,
            seconds=seconds,
        )

    def _run_once(self, lane: _Lane, batch: EngineInput) -> None:
        own = len(batch.frames)
        if own:
            crops = self.bank.feed(batch.frames)
            bank = np.asarray(crops.bank)
            for place, slot in enumerate(crops.slots):
                seen, masked = lane.pictures[place, :3], lane.pictures[place, 3:]
                np.divide(bank[slot], _255, out=seen)
                np.multiply(seen, self._kept, out=masked)
                if self._has_reference:
                    np.divide(bank[crops.reference[0]], _255, out=seen)
        lane.pictures[own:] = batch.pictures
        lane.windows[...] = batch.windows.reshape(lane.windows.shape)
        openvino_models.run(lane.request, self._name)

    def _new_lane(self) -> _Lane:
        request = self._network.create_infer_request()
        lane = _Lane(
            request,
            np.empty((self.run_frames, 6, MOUTH_SIZE, MOUTH_SIZE), np.float32),
            np.empty((self.run_frames, 32, 16, 16), np.float32),
            FloatOutputs(self._io.output, self.run_frames),
        )
        openvino_models.bind(
            request, {self._io.visual: lane.pictures, self._io.audio: lane.windows, self._io.output: lane.outputs.values}
        )
        return lane

    @contextmanager
    def _lent_lane(self) -> Iterator[_Lane]:
        try:
            lane = self._idle.get(block=False)
        except queue.Empty:
            lane = self._new_lane()
        yield lane
        self._idle.put(lane)  # not after a failure: its request may be in any state


@dataclass(frozen=True, slots=True)
class _Lane:
    """For one run at a time: a request, and its inputs and outputs, which it reads and writes in place."""

    request: Any
    pictures: NDArray[np.float32]  # [run_frames, 6, 320, 320]
    windows: NDArray[np.float32]  # [run_frames, 32, 16, 16]
    outputs: FloatOutputs
