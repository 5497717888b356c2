"""Runs an avatar's network with OpenVINO on a CPU, in bfloat16 or float32.

The network is rewritten for a run of one frame (`graphs.cpu_form`). OpenVINO makes finite values of some that are not, so what
goes in is looked at too.
"""

from __future__ import annotations

import queue
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
from inference_service.engines.batched import BatchedEngine
from inference_service.engines.crops import CropBank
from inference_service.engines.devices import Device
from inference_service.engines.engine import EngineInput
from inference_service.engines.load_cache import NOTHING_KEPT, LoadCache
from inference_service.engines.openvino_models import Precision
from inference_service.engines.outputs import FloatOutputs, Mouths
from inference_service.graphs.cpu_form import OPENVINO
from inference_service.settings import OnnxSection

_255 = np.float32(255)


class OpenVinoEngine(BatchedEngine):
    """An `Engine` on OpenVINO. Runs on several threads at the same time share its threads."""

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
        super().__init__(
            CropBank(avatar, device),
            avatar_id=avatar.id,
            producer=str(model.producer_name),
            arithmetic=openvino_models.arithmetic(precision),
            run_frames=self._io.batch or 1,
            max_batch=max_batch,
        )
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
            form=OPENVINO[precision],
            cache=cache,
            digest=digest,
        )
        self._idle: queue.SimpleQueue[_Lane] = queue.SimpleQueue()

    def _run(self, batch: EngineInput, mouths: Mouths) -> None:
        with self._lent_lane() as lane:
            for here, part in self._parts(batch):
                self._run_once(lane, part)
                lane.outputs.take(mouths, here)

    def _reason(self, error: Exception) -> str:
        return openvino_models.reason(error)

    def _takes(self, batch: EngineInput) -> NDArray[np.bool_]:
        takes = np.asarray(np.isfinite(batch.windows).all(axis=(1, 2)))
        if len(batch.pictures):
            takes[len(batch.frames) :] &= np.isfinite(batch.pictures).all(axis=(1, 2, 3))
        return takes

    def _run_once(self, lane: _Lane, batch: EngineInput) -> None:
        own = len(batch.frames)
        if own:
            with self.bank.fed(batch.frames) as crops:
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
