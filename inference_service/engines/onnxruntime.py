"""Runs an avatar's network with ONNX Runtime, on a CPU or a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import MOUTH_SIZE
from avatar_kit.onnx_files import runtime_reason
from inference_service.engines.batched import BatchedEngine
from inference_service.engines.batches import warmed_up
from inference_service.engines.crop_arena import CropArena
from inference_service.engines.crops import CropBank, Feed
from inference_service.engines.device_copies import Placed
from inference_service.engines.devices import Device
from inference_service.engines.engine import EngineError, EngineInput, EngineOutput
from inference_service.engines.network_sessions import Lane, NetworkSessions, SharedSessions
from inference_service.engines.outputs import Mouths
from inference_service.engines.run_sizes import sizes_of_equal_bytes
from inference_service.engines.sessions import run_options
from inference_service.engines.shared_memory import SharedMemory
from inference_service.engines.weights import DeviceWeights
from inference_service.graphs import wrapping
from inference_service.graphs.weights import take_weights
from inference_service.settings import OnnxSection

ARITHMETIC = f"onnxruntime-{onnxruntime.__version__}/float32"
ARITHMETIC_FLOAT16 = f"onnxruntime-{onnxruntime.__version__}/float16"
# A bank must have at least one slot, also when no crop is taken from it.
EMPTY_BANK = np.zeros((1, 3, MOUTH_SIZE, MOUTH_SIZE), np.uint8)
FIRST_SLOT = np.zeros(1, np.int64)


class OnnxEngine(BatchedEngine):
    """An `Engine` on ONNX Runtime. Each run on a GPU has a session of its own."""

    def __init__(
        self,
        avatar: Avatar,
        device: Device,
        options: OnnxSection,
        *,
        max_batch: int = 0,
        run_frames: int = 0,
        shared: SharedSessions | None = None,
        arena: CropArena | None = None,
        float16: bool = False,
    ) -> None:
        """Opens the sessions. `max_batch`: frames of a batch at most; `run_frames`: of a run; 0: numbers that suit the device.

        `arena`: of the device, for its crops. With `shared` its network runs in the sessions there that other avatars use too,
        where they are for the device and its graph can be shared. With `float16` it computes in that, but for its last layer.
        Raises BrokenAvatar and DeviceError.
        """
        model, network = wrapping.wrap_network(
            avatar.network_path,
            avatar.mask,
            for_cpu=not device.is_gpu,
            fixed_reference=avatar.reference_frame is not None,
            float16=float16,
        )
        super().__init__(
            CropBank(avatar, device, arena=arena),
            avatar_id=avatar.id,
            producer=network.producer,
            arithmetic=ARITHMETIC_FLOAT16 if float16 else ARITHMETIC,
            run_frames=network.batch or run_frames,
            max_batch=max_batch,
        )
        self._name = avatar.network_path.name
        most = self.run_sizes[-1]
        wanted = () if network.batch else options.batch_buckets
        self._all_sizes = tuple(sorted({*(size for size in wanted if size < most), most}))
        bank = arena.bank if arena else None
        self._weights: DeviceWeights | None = None
        taken = take_weights(model, network) if shared is not None and shared.are_for(device) else None
        if shared is not None and taken is not None:
            graph, block = taken
            self._sessions = shared.sessions(graph, device, name=self._name, run_sizes=self._all_sizes, bank=bank)
            self._weights = DeviceWeights(graph.places, block, device)
        else:
            self._sessions = NetworkSessions(
                model, network, device, options, name=self._name, run_sizes=self._all_sizes, bank=bank
            )
        self._network = self._sessions.network
        self._bindings: dict[Lane, onnxruntime.IOBinding] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, where it runs in sessions that other avatars use too; else 0."""
        return self._weights.nbytes if self._weights else 0

    @property
    def shared_memory(self) -> SharedMemory | None:
        """The memory of those sessions; None where it has sessions of its own."""
        return self._sessions.memory if self._weights else None

    def warm_up(self) -> EngineOutput:
        """Runs one frame on each session, in runs of each size, and decides which sizes are used.

        Only a real run shows a missing cuDNN or a network that fails. Raises BrokenAvatar.
        """
        # On a GPU twice: ONNX Runtime plans the memory of a size by what its first run took, and takes that in the second.
        runs = len(self._sessions.sessions) * (2 if self.device.is_gpu else 1)
        first = [warmed_up(self) for _ in range(runs)][-1]
        if len(self._all_sizes) == 1:
            return first
        frames = self.bank.frame_count
        self.bank.ensure(range(min(frames, self._all_sizes[-1])))
        try:
            self.run_sizes = sizes_of_equal_bytes(self.avatar_id, self._all_sizes, frames, self._run_in)
        except EngineError as error:
            raise BrokenAvatar([f"the network failed its warm-up: {runtime_reason(error)}"]) from error
        return warmed_up(self)  # in a run of the smallest size

    def _run_in(self, batch: EngineInput, size: int) -> EngineOutput:
        """Runs a batch in runs of this size, on each session. Raises EngineError."""
        self.run_sizes = (size,)
        return [self.run(batch) for _ in self._sessions.sessions][-1]

    def _run(self, batch: EngineInput, mouths: Mouths) -> None:
        with self._sessions.lent_lane() as lane:
            for here, part in self._parts(batch):
                self._run_once(lane, part, mouths, here)

    def _run_once(self, lane: Lane, batch: EngineInput, mouths: Mouths, here: slice) -> None:
        """Runs `batch` and puts what it gives into frames `here` of the mouths."""
        if not len(batch.frames):
            self._run_with(lane, batch, Feed(EMPTY_BANK, batch.frames, FIRST_SLOT), mouths, here)
            return
        with self.bank.fed(batch.frames) as crops:
            self._run_with(lane, batch, crops, mouths, here)

    def _run_with(self, lane: Lane, batch: EngineInput, crops: Feed, mouths: Mouths, here: slice) -> None:
        inputs: dict[str, NDArray[Any] | Placed] = {
            wrapping.BANK: crops.bank,
            wrapping.SLOTS: crops.slots,
            wrapping.REFERENCE_SLOT: crops.reference,
            wrapping.SENT_PICTURES: batch.pictures,
            self._network.windows: batch.windows.reshape(-1, 32, 16, 16),
        }
        fixed = lane.fixed.get(len(batch.frames))
        if fixed is not None and fixed.takes(crops.bank) and not len(batch.pictures):
            fixed.run(self._weights, inputs, self._name)
            fixed.take(mouths, here)
            return
        with run_options(self._name) as options:
            binding = self._binding(lane)
            for name, value in inputs.items():
                if name not in self._network.inputs:
                    continue
                if isinstance(value, Placed):
                    binding.bind_input(name, *self.device.memory, np.uint8, value.shape, value.address)
                else:
                    binding.bind_cpu_input(name, value)  # which uploads it: a part of the run
            lane.outputs.bind(binding, batch)
            lane.session.run_with_iobinding(binding, options)
        lane.outputs.take(mouths, here)

    def _binding(self, lane: Lane) -> onnxruntime.IOBinding:
        """Returns this avatar's binding to the lane's session. Weights are bound to it once: changing avatars costs nothing."""
        binding = self._bindings.get(lane)
        if binding is None:
            binding = self._bindings[lane] = lane.session.io_binding()
            if self._weights:
                self._weights.bind(binding)
        return binding
