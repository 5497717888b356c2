"""Copies bytes to places in a device's memory, from the process or from another place there.

ONNX Runtime's Python interface fills whole values alone, and its `copy_tensors` works only for providers that are registered as
plug-ins, which the built-in CUDA provider is not. A graph of one Identity does both on every provider: its output is bound to the
place. A run ends when the bytes are there, so that any later run may read them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from inference_service.engines.capturing import GATE
from inference_service.engines.devices import MEMORY_LIMIT, Device
from inference_service.engines.sessions import open_session, run_options
from inference_service.settings import OnnxSection

_FROM, _TO = "from", "to"
_OPSET = 13


class Placed(NamedTuple):
    """A uint8 tensor at an address in a device's memory. Its owner must live as long as it is used."""

    address: int
    shape: tuple[int, ...]


class DeviceCopies:
    """Thread-safe."""

    def __init__(self, device: Device) -> None:
        """Opens the session. Raises DeviceError."""
        self._device = device
        values = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["bytes"]) for name in (_FROM, _TO)]
        graph = helper.make_graph([helper.make_node("Identity", [_FROM], [_TO])], "copy", values[:1], values[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
        self._session = open_session(model, _without_limit(device), OnnxSection(), name="copying")

    def allocate(self, shape: tuple[int, ...]) -> onnxruntime.OrtValue:
        """Allocates a uint8 tensor on the device, and no more than that. Raises what ONNX Runtime does.

        What belongs to no session comes from blocks that ONNX Runtime makes as large as the largest before: after 2 GiB for
        crops, the first avatar's weights would take 2 GiB too.
        """
        with GATE.call():
            return self._session.create_ortvalue_from_shape_and_type(shape, np.uint8, *self._device.memory)

    def upload(self, data: NDArray[np.uint8], address: int) -> None:
        """Copies an array, which must be contiguous, to an address of the device."""
        self._run(lambda binding: binding.bind_cpu_input(_FROM, data.reshape(-1)), address, data.nbytes)

    def copy(self, source: int, address: int, nbytes: int) -> None:
        """Copies bytes from one address of the device to another."""
        memory = self._device.memory
        self._run(lambda binding: binding.bind_input(_FROM, *memory, np.uint8, (nbytes,), source), address, nbytes)

    def _run(self, bind_input: Callable[[onnxruntime.IOBinding], None], address: int, nbytes: int) -> None:
        with run_options("copying") as options:
            binding = self._session.io_binding()
            bind_input(binding)  # which uploads an array: a part of the run
            binding.bind_output(_TO, *self._device.memory, np.uint8, (nbytes,), address)
            self._session.run_with_iobinding(binding, options)


def _without_limit(device: Device) -> Device:
    """Returns the device without the limit that ONNX Runtime applies to each session: crops have one of their own."""
    unlimited = [(name, {key: options[key] for key in options if key != MEMORY_LIMIT}) for name, options in device.providers]
    return replace(device, providers=tuple(unlimited))
