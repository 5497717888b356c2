"""Runs a session whose inputs and outputs always lie in the same places, as a captured CUDA graph needs them.

A graph is captured at the first run and replayed at all others, so nothing may move: sound is copied to the device's buffers, and
so are crops, where no arena holds them, and an avatar's weights, within the device, when the run before was of another avatar.
It has been run on CPUs only, where nothing is captured.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from avatar_kit.geometry import MOUTH_SIZE
from inference_service.engines.capturing import GATE
from inference_service.engines.device_copies import DeviceCopies, Placed
from inference_service.engines.devices import Device
from inference_service.engines.outputs import Mouths, take_pixels
from inference_service.engines.sessions import NOT_CAPTURED, run_options
from inference_service.engines.weights import DeviceWeights, bind_places
from inference_service.graphs import wrapping
from inference_service.graphs.weights import Place

_SIDE = MOUTH_SIZE


class WeightBlock:
    """The place of the weights that a session's graphs take as inputs: one for runs of all sizes."""

    def __init__(self, places: Sequence[Place], device: Device) -> None:
        """Allocates it. `places`: of the weights in it."""
        self._places = places
        self._device = device
        room = max(1, sum(place.room for place in places))
        self._copies = DeviceCopies(device)
        self._block = self._copies.allocate((room,))
        self._loaded: weakref.ref[DeviceWeights] | None = None

    def bind(self, binding: onnxruntime.IOBinding) -> None:
        """Binds each tensor to its input."""
        bind_places(binding, self._places, self._block.data_ptr(), self._device)

    def load(self, weights: DeviceWeights) -> None:
        """Copies an avatar's weights here, unless they are those of the last run."""
        if self._loaded is None or self._loaded() is not weights:
            self._loaded = None
            self._copies.copy(weights.address, self._block.data_ptr(), weights.nbytes)
            self._loaded = weakref.ref(weights)


class FixedBuffers:
    """The buffers of one session of a graph that makes pixels, for runs of the same number of the avatar's own pictures.

    ONNX Runtime keeps a captured graph for the thread that captured it alone: all runs of the session are on one `thread`.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        network: wrapping.WrappedNetwork,
        block: WeightBlock,
        device: Device,
        run_frames: int,
        *,
        thread: Executor,
        bank: Placed | None = None,
    ) -> None:
        """Allocates the buffers. The session's graph must not take pictures of callers.

        `bank`: where the crops are in the device's memory; None: each run brings its own along.
        """
        self._session = session
        self._float_name = network.mouths_float
        kind, device_id = device.memory
        crops = run_frames + (wrapping.REFERENCE_SLOT in network.inputs)

        def buffer(dtype: type[np.generic], *shape: int) -> onnxruntime.OrtValue:
            with GATE.call():
                return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, kind, device_id)

        inputs = {
            wrapping.BANK: buffer(np.uint8, crops, 3, _SIDE, _SIDE),
            wrapping.SLOTS: buffer(np.int64, run_frames),
            wrapping.REFERENCE_SLOT: buffer(np.int64, 1),
            network.windows: buffer(np.float32, run_frames, 32, 16, 16),
        }
        if bank:
            del inputs[wrapping.BANK]
        self._bank = bank
        self._inputs = {name: value for name, value in inputs.items() if name in network.inputs}
        self._outputs = {
            network.mouths_float: buffer(np.float32, run_frames, 3, _SIDE, _SIDE),
            wrapping.MOUTHS_UINT8: buffer(np.uint8, run_frames, 3, _SIDE, _SIDE),
            wrapping.SUMS: buffer(np.float32, run_frames),
        }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        if bank and wrapping.BANK in network.inputs:
            self._binding.bind_input(wrapping.BANK, kind, device_id, np.uint8, bank.shape, bank.address)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._block = block
        block.bind(self._binding)
        self._graph = str(run_frames)
        self._thread = thread
        self._is_captured = False

    def takes(self, bank: Placed | NDArray[np.uint8]) -> bool:
        """Tells if runs can have their crops from this bank."""
        return bank == self._bank if isinstance(bank, Placed) else self._bank is None

    def run(self, weights: DeviceWeights | None, inputs: Mapping[str, NDArray[Any] | Placed], name: str) -> None:
        """Runs a batch of the avatar with these weights, of the file `name`. `inputs` have the shapes of the buffers."""
        if weights is not None:
            self._block.load(weights)
        with GATE.call():
            for key, buffer in self._inputs.items():
                value = inputs[key]
                if isinstance(value, np.ndarray):
                    buffer.update_inplace(np.ascontiguousarray(value))
        if not self._is_captured:
            self._run(name, NOT_CAPTURED)  # chooses kernels, for seconds: a capture would hold up all others for so long
        self._run(name, self._graph)
        self._is_captured = True

    def _run(self, name: str, graph: str) -> None:
        captures = graph != NOT_CAPTURED and not self._is_captured
        with run_options(name, graph=graph, captures=captures) as options:
            self._thread.submit(self._session.run_with_iobinding, self._binding, options).result()

    def take(self, mouths: Mouths, here: slice) -> None:
        """Puts the outputs of the last run into frames `here` of a batch. Only what is wanted is copied from the device."""
        with GATE.call():
            floats = None if mouths.floats is None else self._outputs[self._float_name].numpy()
            planes = None if mouths.pixels is None else self._outputs[wrapping.MOUTHS_UINT8].numpy()
            sums = self._outputs[wrapping.SUMS].numpy()
        take_pixels(mouths, here, sums, floats, planes)
