"""Reading ONNX files that come from elsewhere."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_io import MAX_MODEL_BYTES
from avatar_kit.safe_files import FileProblem, read_bounded


def load_whole(path: Path) -> onnx.ModelProto:
    """The model in a file that holds all of it. Raises BrokenAvatar, also for weights in other files, which are not followed."""
    try:
        model = onnx.load_model_from_string(read_bounded(path, MAX_MODEL_BYTES))
    except FileProblem as problem:
        raise BrokenAvatar(problem.of(path.name)) from None
    except (DecodeError, ValueError):
        raise BrokenAvatar(f"{path.name} is not an ONNX file, or is truncated") from None
    if not model.graph.node:
        raise BrokenAvatar(f"{path.name} is not an ONNX file, or is truncated: it has no graph")
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        raise BrokenAvatar(f"{path.name} keeps its weights in other files: save it as one file (onnx.save with no external data)")
    return model
