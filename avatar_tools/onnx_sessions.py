"""Opens and runs ONNX models on the CPU.

ONNX Runtime's errors become sentences that name the file, without this machine's folders. The services open their own sessions,
with devices and settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_kit.cores import usable_cores
from avatar_kit.errors import AvatarError, BrokenAvatar
from avatar_kit.onnx_files import runtime_reason

_NO_LOG = 4  # exceptions say the same


class OnnxRuntimeMissing(AvatarError):
    """ONNX Runtime is not installed here, or does not load."""


def open_session(model: bytes | Path, name: str) -> Any:
    """Opens a session of a model, called `name` in messages. For one thread or many.

    Weights in other files are found for a path, and not for bytes. Raises BrokenAvatar when the model cannot be loaded, and
    OnnxRuntimeMissing.
    """
    onnxruntime = runtime(name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _NO_LOG
    # The default is a thread for each core of the machine, tied to it, also for cores that this process may not use.
    options.intra_op_num_threads = usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the processor between two runs
    given = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        raise BrokenAvatar(f"{name}: ONNX Runtime cannot load it: {runtime_reason(error)}") from None


def run_session(
    session: Any, name: str, feeds: Mapping[str, NDArray[np.float32]], outputs: Sequence[str] | None = None
) -> list[NDArray[Any]]:
    """Runs a session: the outputs of those names, or all in the model's order. Raises BrokenAvatar."""
    try:
        return [np.asarray(output) for output in session.run(outputs, dict(feeds))]
    except Exception as error:
        raise BrokenAvatar(f"{name}: ONNX Runtime cannot run it: {runtime_reason(error)}") from None


def runtime(name: str) -> Any:
    """Returns the module onnxruntime, silenced. `name` is what needs it. Raises OnnxRuntimeMissing."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the library is loaded
    try:
        import onnxruntime  # noqa: PLC0415  # heavy, and optional
    except ImportError:
        raise OnnxRuntimeMissing(f"{name}: running a model needs ONNX Runtime: install the extra [cpu] or [gpu]") from None
    onnxruntime.disable_telemetry_events()
    return onnxruntime
