"""ONNX Runtime alone, the yardstick: a network as exported, with its inputs on the device already, and nothing copied back."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime

from avatar_kit.onnx_files import load_model
from avatar_kit.onnx_io import network_io
from inference_service.engines.devices import CPU, CUDA
from inference_service.graphs.float16 import to_float16

_WARM_UP_RUNS = 3  # which choose the kernels


class Plain:
    """A session with its inputs and output on the device."""

    def __init__(self, network: Path, batch: int, seconds: float, *, on_gpu: bool, float16: bool = False) -> None:
        """`seconds`: of a measurement, which runs batches of `batch` frames."""
        io = network_io(network)
        options = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
        provider, kind = ((CUDA, options), "cuda") if on_gpu else ((CPU, {}), "cpu")
        self._batch, self._seconds = batch, seconds
        model = to_float16(load_model(network), io.output).SerializeToString() if float16 else str(network)
        self._session = onnxruntime.InferenceSession(model, providers=[provider])
        self._binding = self._session.io_binding()
        for name, shape in ((io.visual, (batch, 6, 320, 320)), (io.audio, (batch, 32, 16, 16))):
            values = np.random.default_rng(1).uniform(0, 1, shape).astype(np.float32)
            self._binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, kind, 0))
        self._binding.bind_output(io.output, kind, 0)

    def frames_s(self) -> float:
        """Measures frames a second."""
        for _ in range(_WARM_UP_RUNS):
            self._session.run_with_iobinding(self._binding)
        runs, started = 0, perf_counter()
        while perf_counter() - started < self._seconds:
            self._session.run_with_iobinding(self._binding)
            runs += 1
        return runs * self._batch / (perf_counter() - started)
