"""Runs an avatar's network with ONNX Runtime, on a CPU or a GPU."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import MOUTH_SIZE
from inference_service.engines.batches import BatchRoom, part_of, warmed_up
from inference_service.engines.crops import CropBank, Feed
from inference_service.engines.devices import Device
from inference_service.engines.engine import EngineError, EngineInput, EngineOutput, SharedMemory
from inference_service.engines.network_sessions import Lane, NetworkSessions, SharedSessions
from inference_service.engines.outputs import Mouths
from inference_service.engines.sessions import CAPTURED, NOT_CAPTURED, run_options
from inference_service.engines.weights import DeviceWeights
from inference_service.graphs import wrapping
from inference_service.graphs.weights import take_weights
from inference_service.settings import OnnxSection

ARITHMETIC = f"onnxruntime-{onnxruntime.__version__}/float32"
ARITHMETIC_FLOAT16 = f"onnxruntime-{onnxruntime.__version__}/float16"
# A bank must have at least one slot, also when no crop is taken from it.
EMPTY_BANK = np.zeros((1, 3, MOUTH_SIZE, MOUTH_SIZE), np.uint8)
FIRST_SLOT = np.zeros(1, np.int64)


class OnnxEngine:
    """An `Engine` on ONNX Runtime. Each run on a GPU has a session of its own."""

    def __init__(
        self,
        avatar: Avatar,
        device: Device,
        options: OnnxSection,
        *,
        max_batch: int = 0,
        shared: SharedSessions | None = None,
        float16: bool = False,
    ) -> None:
        """Opens the sessions. `max_batch`: frames of a batch at most; 0: a number that suits the device.

        With `shared` its network runs in the sessions there that other avatars use too, where they are for the device and its
        graph can be shared. With `float16` it computes in that, but for its last layer. Raises BrokenAvatar and DeviceError.
        """
        model, network = wrapping.wrap_network(
            avatar.network_path,
            avatar.mask,
            for_cpu=not device.is_gpu,
            fixed_reference=avatar.reference_frame is not None,
            float16=float16,
        )
        self.arithmetic = ARITHMETIC_FLOAT16 if float16 else ARITHMETIC
        self.avatar_id = avatar.id
        self.device = device
        self.bank = CropBank(avatar, device, stays_on_host=options.cuda_graphs)
        self._room = BatchRoom(configured=max_batch, is_gpu=device.is_gpu)
        # Frames of each run. On a GPU the first run of another size takes seconds, to choose kernels, and its results differ in
        # rounding: by one grey level between runs of 1 and 8 frames on an H100. On a CPU one frame stays in the cache.
        self.run_frames = network.batch or (self._room.most if device.is_gpu else 1)
        self.producer = network.producer
        self._name = avatar.network_path.name
        self._weights: DeviceWeights | None = None
        taken = take_weights(model, network) if shared is not None and shared.are_for(device) else None
        if shared is not None and taken is not None:
            graph, block = taken
            self._sessions = shared.sessions(graph, device, name=self._name, run_frames=self.run_frames)
            self._weights = DeviceWeights(graph.places, block, device)
        else:
            self._sessions = NetworkSessions(model, network, device, options, name=self._name, run_frames=self.run_frames)
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

    @property
    def room(self) -> int:
        """The configured size, or more for a network that is quick enough."""
        return self._room.frames

    @property
    def short_room(self) -> int:
        """The frames that take no longer than half a frame's time, in whole runs of the network, and one run at least."""
        return self._room.short(self.run_frames)

    def warm_up(self) -> EngineOutput:
        """Runs one frame on each session. Only a real run shows a missing cuDNN or a network that fails. Raises BrokenAvatar."""
        return [warmed_up(self) for _ in self._sessions.sessions][-1]

    def run(self, batch: EngineInput) -> EngineOutput:
        """Runs the network. Crops of `batch.frames` must be in the bank. Raises EngineError."""
        started = time.perf_counter()
        try:
            mouths = self._run(batch)
        except Exception as error:  # ONNX Runtime's errors have no common base, and those of a binding are plain RuntimeErrors
            raise EngineError(str(error) or type(error).__name__) from error
        seconds = time.perf_counter() - started
        count = len(batch.windows)
        self._room.note(seconds, count)
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
        with self._sessions.lent_lane() as lane:
            for start in range(0, room, size):
                here = slice(start, min(start + size, room))
                part = batch if here == slice(0, count) else part_of(batch, here.start, here.stop - here.start)
                self._run_once(lane, part, mouths, here)
        return mouths

    def _run_once(self, lane: Lane, batch: EngineInput, mouths: Mouths, here: slice) -> None:
        """Runs `batch` and puts what it gives into frames `here` of the mouths."""
        crops = self.bank.feed(batch.frames) if len(batch.frames) else Feed(EMPTY_BANK, batch.frames, FIRST_SLOT)
        inputs = {
            wrapping.BANK: crops.bank,
            wrapping.SLOTS: crops.slots,
            wrapping.REFERENCE_SLOT: crops.reference,
            wrapping.SENT_PICTURES: batch.pictures,
            self._network.windows: batch.windows.reshape(-1, 32, 16, 16),
        }
        if lane.fixed is not None and len(batch.frames) == self.run_frames:
            arrays = {name: value for name, value in inputs.items() if isinstance(value, np.ndarray)}
            lane.fixed.run(self._weights, arrays, self._name)
            lane.fixed.take(mouths, here)
            return
        binding = self._binding(lane)
        for name, value in inputs.items():
            if name not in self._network.inputs:
                continue
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value)
        lane.outputs.bind(binding, batch)
        with run_options(self._name, graph=NOT_CAPTURED if lane.fixed else CAPTURED) as options:
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
