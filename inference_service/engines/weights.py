"""An avatar's weights in the memory of its device, where a graph is shared and takes them as inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from inference_service.engines.capturing import GATE
from inference_service.engines.devices import Device
from inference_service.graphs.weights import Place


class DeviceWeights:
    """One block of weights. It must live as long as a binding that it was bound to is used."""

    def __init__(self, places: Sequence[Place], block: NDArray[np.uint8], device: Device) -> None:
        """Copies `block`, uint8 [bytes], to a GPU; on a CPU the block itself is the memory."""
        self._places = places
        self._device = device
        self.nbytes = block.nbytes
        # Not made a value on a CPU: ONNX Runtime would copy it, to where the places are not aligned.
        self._on_host = None if device.is_gpu else block
        with GATE.call():
            self._on_device = onnxruntime.OrtValue.ortvalue_from_numpy(block, *device.memory) if device.is_gpu else None

        self.address: int = block.ctypes.data if self._on_device is None else self._on_device.data_ptr()

    def bind(self, binding: onnxruntime.IOBinding) -> None:
        """Binds each tensor to its input. The binding then reads this block in every run."""
        bind_places(binding, self._places, self.address, self._device)


def bind_places(binding: onnxruntime.IOBinding, places: Sequence[Place], address: int, device: Device) -> None:
    """Binds the tensors of a block at `address` in the device's memory."""
    for place in places:
        binding.bind_input(place.name, *device.memory, place.dtype.type, place.shape, address + place.offset)
