"""Reading ONNX files that come from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    if any(map(uses_external_data, _tensors(model.graph.node, model.graph))) or any(
        map(uses_external_data, _tensors(node for function in model.functions for node in function.node))
    ):
        raise BrokenAvatar(f"{path.name} keeps its weights in other files: save it as one file (onnx.save with no external data)")
    return model


def _tensors(nodes: Iterable[onnx.NodeProto], graph: onnx.GraphProto | None = None) -> Iterator[onnx.TensorProto]:
    """Every tensor that a graph or its nodes hold, at any depth."""
    if graph is not None:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner.node, inner)
