"""Runs an audio encoder with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from avatar_kit.onnx_io import EncoderIO
from inference_service.engines.engine import EngineError
from inference_service.engines.sessions import run_options


def encoder_run(
    session: onnxruntime.InferenceSession, io: EncoderIO, name: str
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Returns a function that runs an audio encoder's session: [rows, 1, 80, 16] -> [rows, 512]. It raises EngineError."""

    def run(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            with run_options(name) as options:
                rows: NDArray[np.float32] = session.run([io.rows], {io.mel: windows}, options)[0]
        except Exception as error:
            raise EngineError(f"{name}: {error or type(error).__name__}") from error
        return rows

    return run
