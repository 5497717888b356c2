"""What running a network takes, worked out from its graph alone: weights, and tensors that are alive at the same time.

ONNX Runtime on a CPU takes 118 to 150 MB for each frame of the full-size network's batch, as the allocator gives freed memory
back or not; this says 144. What the libraries of a GPU take to work in comes on top, and was not measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from avatar_kit.errors import BrokenAvatar
from avatar_kit.networks.cpu_form import cpu_form
from avatar_kit.networks.shapes import inferred_values
from avatar_kit.onnx_io import MAX_MODEL_BYTES, network_io
from avatar_kit.safe_files import FileProblem, read_bounded

# The most frames that a service runs at once when its settings say nothing of it.
GPU_BATCH = 16
CPU_BATCH = 4

# On a CPU, ONNX Runtime holds weights as they came and as its kernels read them, beside the graph that they came in; and its
# memory to work in grows by doubling.
_CPU_WEIGHTS = 3
_CPU_WORK = 2

_UNNAMED_ITEM_BYTES = 4  # of a type that is not known here

_IN_PLACE = frozenset(
    {"Add", "BatchNormalization", "Clip", "Div", "Flatten", "HardSwish", "Identity", "LeakyRelu", "Mul", "PRelu", "Relu"}
    | {"Reshape", "Sigmoid", "Squeeze", "Sub", "Tanh", "Unsqueeze"}
)


@dataclass(slots=True)
class _Buffer:
    """Memory in which tensors lie one after the other, from node `first` to node `last`."""

    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class NetworkMemory:
    """Bytes that a network takes when it runs `batch` frames at once."""

    batch: int
    weights: int
    work: int
    is_complete: bool
    """Whether the sizes of all tensors are known; if not, `work` is the least that it can be."""


def gpu_memory(path: Path) -> NetworkMemory:
    """The lip-sync network at `path` as it is, with the largest batch or the one that it is fixed to. Raises BrokenAvatar."""
    return _memory(_loaded(path), GPU_BATCH)


def cpu_memory(path: Path) -> NetworkMemory:
    """The same in the form in which the service runs it on a CPU. Raises BrokenAvatar."""
    model = _loaded(path)
    with suppress(IndexError, KeyError, TypeError, ValueError):  # the service runs it as it is then
        model = cpu_form(model)
    plain = _memory(model, CPU_BATCH)
    return replace(plain, weights=_CPU_WEIGHTS * plain.weights, work=_CPU_WORK * plain.work)


def _loaded(path: Path) -> onnx.ModelProto:
    network_io(path)  # says what is wrong with it
    try:
        return onnx.load_model_from_string(read_bounded(path, MAX_MODEL_BYTES))
    except (FileProblem, DecodeError, ValueError):
        raise BrokenAvatar(f"{path.name}: has changed while it was looked at") from None


def _memory(model: onnx.ModelProto, wanted_batch: int) -> NetworkMemory:
    ends = network_io(model)
    batch = ends.batch or wanted_batch
    weights = sum(map(_tensor_bytes, model.graph.initializer)) + sum(map(_constant_bytes, model.graph.node))
    sizes = _sizes(model, {ends.visual, ends.audio}, batch)
    is_complete = all(name in sizes for node in model.graph.node for name in node.output if name)
    return NetworkMemory(batch, weights, peak_bytes(model.graph, sizes), is_complete)


def peak_bytes(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> int:
    """The most bytes held at the same time when the nodes run one after the other; a tensor that `sizes` lacks takes none.

    As ONNX Runtime plans it: a tensor is written over an input that nobody else reads where the operator allows that, else into
    memory of its size that became free before, else into new memory. Memory is held from its first tensor to its last.
    """
    plan = _Plan(graph, sizes)
    for place, node in enumerate(graph.node):
        plan.run(place, node)
    change = [0] * (len(graph.node) + 2)
    for buffer in plan.buffers:
        change[buffer.first] += buffer.size
        change[buffer.last + 1] -= buffer.size
    return max(itertools.accumulate(change))


class _Plan:
    """Which memory each tensor lies in."""

    def __init__(self, graph: onnx.GraphProto, sizes: Mapping[str, int]) -> None:
        self.buffers: list[_Buffer] = []
        self._sizes = sizes
        self._last_use = {name: place for place, node in enumerate(graph.node) for name in node.input}
        self._last_use |= dict.fromkeys((output.name for output in graph.output), len(graph.node))
        self._free: dict[int, list[_Buffer]] = {}
        weights = {tensor.name for tensor in graph.initializer}
        self._lying_in = {value.name: self._new(value.name, 0) for value in graph.input if value.name not in weights}

    def run(self, place: int, node: onnx.NodeProto) -> None:
        """Finds memory for what the node makes, then frees what nobody reads any more."""
        dying = [name for name in dict.fromkeys(node.input) if name in self._lying_in and self._last_use[name] == place]
        for name in filter(None, node.output):
            size = self._sizes.get(name, 0)
            over = next((each for each in dying if self._lying_in[each].size == size), None) if _writes_over(node) else None
            if over is not None:
                dying.remove(over)
                buffer = self._lying_in.pop(over)
            else:
                buffer = self._free[size].pop() if self._free.get(size) else self._new(name, place)
            buffer.last = self._last_use.get(name, place)
            self._lying_in[name] = buffer
        unread = (name for name in node.output if name and name not in self._last_use)
        for name in (*dying, *unread):
            buffer = self._lying_in.pop(name)
            self._free.setdefault(buffer.size, []).append(buffer)

    def _new(self, name: str, place: int) -> _Buffer:
        self.buffers.append(_Buffer(self._sizes.get(name, 0), place, self._last_use.get(name, place)))
        return self.buffers[-1]


def _writes_over(node: onnx.NodeProto) -> bool:
    return node.op_type in _IN_PLACE and len(node.output) == 1


def _sizes(model: onnx.ModelProto, batched: set[str], batch: int) -> dict[str, int]:
    """Bytes of every tensor whose shape can be told when the inputs `batched` hold that many frames."""
    told = onnx.ModelProto()
    told.CopyFrom(model)
    for value in told.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        if value.name in batched and dimensions:
            dimensions[0].dim_value = batch
    for value in told.graph.output:
        value.type.tensor_type.ClearField("shape")  # what an exporter wrote may speak of another batch
    try:
        values = inferred_values(told)
    except ValueError:
        values = list(told.graph.input)
    return {value.name: size for value in values if (size := _value_bytes(value)) is not None}


def _value_bytes(value: onnx.ValueInfoProto) -> int | None:
    """None when a dimension is not known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dimensions = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in tensor.shape.dim]
    known = [dim for dim in dimensions if dim is not None]
    return math.prod(known) * _item_bytes(tensor.elem_type) if len(known) == len(dimensions) else None


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * _item_bytes(tensor.data_type)


def _constant_bytes(node: onnx.NodeProto) -> int:
    if node.op_type != "Constant":
        return 0
    return sum(_tensor_bytes(attribute.t) for attribute in node.attribute if attribute.HasField("t"))


def _item_bytes(kind: int) -> int:
    try:
        return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, TypeError, ValueError):
        return _UNNAMED_ITEM_BYTES
