"""Opening and running ONNX models that somebody gave us, with errors that name the file and not this machine's folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_kit.errors import AvatarError, BrokenAvatar
from avatar_kit.safe_files import FileProblem, read_bounded

MAX_DETECTION_MODEL_BYTES = 512 * 2**20  # the published ones have 3 to 17 MB


def read_model(path: Path) -> bytes:
    """The bytes of a model file of bounded size. Raises BrokenAvatar."""
    try:
        return read_bounded(path, MAX_DETECTION_MODEL_BYTES)
    except FileProblem as problem:
        raise BrokenAvatar(problem.of(f"{path.name}:")) from None


def open_session(model: bytes, name: str) -> Any:
    """An ONNX Runtime session on the CPU. Weights in files beside the model are not followed.

    Raises BrokenAvatar when it can not be loaded, AvatarError when ONNX Runtime is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the library is loaded
    try:
        import onnxruntime  # noqa: PLC0415  # heavy, and optional
    except ImportError:
        raise AvatarError(f"{name}: running a model needs ONNX Runtime: install the extra [cpu] or [gpu]") from None
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others use the processor between two runs
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        raise BrokenAvatar(f"{name}: ONNX Runtime can not load it: {_reason(error)}") from None


def run_session(session: Any, name: str, feeds: Mapping[str, NDArray[np.float32]]) -> list[NDArray[Any]]:
    """All outputs, in the model's order. Raises BrokenAvatar."""
    try:
        return [np.asarray(output) for output in session.run(None, dict(feeds))]
    except Exception as error:
        raise BrokenAvatar(f"{name}: ONNX Runtime can not run it: {_reason(error)}") from None


def picture_input(session: Any, name: str, shape: tuple[int, int, int]) -> str:
    """The name of the one input, which must take one float32 picture of that shape, [N, *shape]. Raises BrokenAvatar."""
    ends = session.get_inputs()
    if len(ends) == 1 and ends[0].type == "tensor(float)" and _takes(ends[0].shape, (1, *shape)):
        return str(ends[0].name)
    given = ", ".join(f"{end.name[:40]!r} {end.shape} {end.type}" for end in ends[:6]) or "no inputs"
    raise BrokenAvatar(f"{name}: takes {given}; expected one input [N, {', '.join(map(str, shape))}] of float32")


def _takes(declared: list[int | str | None], wanted: tuple[int, ...]) -> bool:
    if len(declared) != len(wanted):
        return not declared  # some exports do not say even the rank
    return all(not isinstance(has, int) or has in {wants, -1, 0} for has, wants in zip(declared, wanted, strict=True))


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
