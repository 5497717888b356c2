"""An avatar's weights in the memory of its device, where a graph is shared and takes them as inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from inference_service.engines.devices import Device
from inference_service.graphs.weights import Place


class DeviceWeights:
    """One block of weights. It must live as long as a binding that it was bound to is used."""

    def __init__(self, places: Sequence[Place], block: NDArray[np.uint8], device: Device) -> None:
        """Copies `block`, uint8 [bytes], to a GPU; on a CPU the block itself is the memory."""
        self._places = places
        self._kind = "cuda" if device.is_gpu else "cpu"
        self._device_id = max(device.gpu_id, 0)
        self.nbytes = block.nbytes
        # Not made a value on a CPU: ONNX Runtime would copy it, to where the places are not aligned.
        on_device = onnxruntime.OrtValue.ortvalue_from_numpy(block, self._kind, self._device_id) if device.is_gpu else None
        self._memory = block if on_device is None else on_device
        self._address = block.ctypes.data if on_device is None else on_device.data_ptr()

    def bind(self, binding: onnxruntime.IOBinding) -> None:
        """Binds each tensor to its input. The binding then reads this block in every run."""
        for place in self._places:
            address = self._address + place.offset
            binding.bind_input(place.name, self._kind, self._device_id, place.dtype.type, place.shape, address)
