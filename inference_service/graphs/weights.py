"""Takes the weights out of a wrapped network, so that one graph serves all avatars whose networks differ in nothing else.

The weights become inputs of the graph. They lie in one block of memory, each at a place that the graph fixes: loading an avatar
is one copy. Tensors are renamed in the order of their use, so that the names that an exporter gave do not keep graphs apart.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from avatar_kit.errors import as_broken_avatar
from inference_service.graphs.wrapping import WrappedNetwork

WINDOWS = "lipsync/windows"
MOUTHS_FLOAT = "lipsync/mouths_float"
ALIGNMENT = 256  # bytes; that of CUDA's own allocations

# Operators that compute with weights. A constant of one number is no weight to the second kind: it may scale a range or a mean.
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "PRelu"})
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16})
# A network with more constants of other kinds is not of the family, or is quantised: it would share its graph with no other.
_MAX_OTHER_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Place:
    """The place of one weight tensor in a block of weights."""

    name: str  # the graph's input
    dtype: np.dtype[Any]  # float32 or float16
    shape: tuple[int, ...]
    offset: int  # bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def room(self) -> int:
        """Bytes of the block up to the next place."""
        return _aligned(self.nbytes)


@dataclass(frozen=True, slots=True)
class SharedGraph:
    """A network without its weights."""

    key: str  # equal for equal graphs: nodes, attributes, shapes, operator sets and the constants that are no weights
    model: onnx.ModelProto
    network: WrappedNetwork
    places: tuple[Place, ...]

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of weights."""
        return sum(place.room for place in self.places)


@as_broken_avatar("the network")
def take_weights(model: onnx.ModelProto, network: WrappedNetwork) -> tuple[SharedGraph, NDArray[np.uint8]] | None:
    """Takes a wrapped model apart, into its graph and a block of its weights, uint8 [block_bytes]. `model` is used up.

    Returns None, with `model` as it was, for a network that cannot share its graph: one with loops or branches, with functions
    or sparse weights of its own, without weights, or with more than a megabyte of other constants. Raises BrokenAvatar when the
    values of a weight do not have its shape.
    """
    graph = model.graph
    if model.functions or graph.sparse_initializer or any(map(_has_body, graph.node)):
        return None
    constants = _constants(graph)
    weights = _weight_names(graph, constants)
    others = [tensor for name, tensor in constants.items() if name not in weights]
    if not weights or sum(tensor.ByteSize() for tensor in others) > _MAX_OTHER_BYTES:
        return None
    fixed = {network.windows: WINDOWS, network.mouths_float: MOUTHS_FLOAT}
    names = _new_names(graph, constants, fixed)
    places = _places([constants[name] for name in weights], [names[name] for name in weights])
    shared = _rebuilt(model, names, constants, places)
    inputs = frozenset(names[name] for name in network.inputs if name not in constants)
    taken = replace(network, windows=WINDOWS, mouths_float=MOUTHS_FLOAT, inputs=inputs, producer="")
    key = hashlib.sha256(shared.SerializeToString(deterministic=True)).hexdigest()
    found = SharedGraph(key, shared, taken, places)
    return found, _block(found, [constants[name] for name in weights])


def aligned_bytes(size: int) -> NDArray[np.uint8]:
    """Allocates uint8 [size] on the host, aligned as the places of a block are."""
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]


def _has_body(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Returns the constants by name, those of Constant nodes too."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if _is_constant(node):
            found[node.output[0]] = node.attribute[0].t
    return found


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.attribute[0].name == "value"


def _weight_names(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]) -> list[str]:
    """Returns the names of the weights, in the order of their first use: constants that nothing but arithmetic reads."""
    readers = Counter[str]()
    computing = Counter[str]()
    for node in graph.node:
        for name in node.input:
            tensor = constants.get(name)
            if tensor is None:
                continue
            readers[name] += 1
            is_weight = node.op_type in _WEIGHTED or (node.op_type in _ARITHMETIC and math.prod(tensor.dims) > 1)
            computing[name] += is_weight and tensor.data_type in _FLOATS
    outputs = {value.name for value in graph.output}
    return [name for name in readers if readers[name] == computing[name] and name not in outputs]


def _new_names(graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto], fixed: Mapping[str, str]) -> dict[str, str]:
    """Returns a new name for each tensor: the names of inputs and outputs stay, or are `fixed`."""
    kept = {value.name for value in [*graph.input, *graph.output]} - constants.keys()
    names = {"": ""} | {name: fixed.get(name, name) for name in kept}
    for node in graph.node:
        for name in [*node.input, *node.output]:
            names.setdefault(name, f"t{len(names)}")
    return names


def _places(tensors: Sequence[onnx.TensorProto], names: Sequence[str]) -> tuple[Place, ...]:
    places: list[Place] = []
    offset = 0
    for tensor, name in zip(tensors, names, strict=True):
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        place = Place(name, dtype, tuple(tensor.dims), offset)
        places.append(place)
        offset += place.room
    return tuple(places)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _rebuilt(
    model: onnx.ModelProto, names: Mapping[str, str], constants: Mapping[str, onnx.TensorProto], places: Sequence[Place]
) -> onnx.ModelProto:
    """Makes the model of the graph alone: without weights, an exporter's names and notes."""
    old = model.graph
    shared = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph={"name": "shared"})
    graph = shared.graph
    weights = {place.name for place in places}
    for node in old.node:
        if _is_constant(node):
            continue
        made = graph.node.add(
            op_type=node.op_type, domain=node.domain, attribute=sorted(node.attribute, key=lambda one: one.name)
        )
        made.input.extend(names[name] for name in node.input)
        made.output.extend(names[name] for name in node.output)
        for attribute in made.attribute:
            attribute.ClearField("doc_string")
    read = {name for node in graph.node for name in node.input}
    for name, tensor in constants.items():
        if names.get(name) in read - weights:
            graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor), names[name]))
    graph.initializer.sort(key=lambda tensor: tensor.name)
    for values, kept in ((graph.input, old.input), (graph.output, old.output)):
        for value in kept:
            if value.name not in constants:
                values.add(name=names[value.name], type=value.type)
    for place in places:
        graph.input.append(helper.make_tensor_value_info(place.name, helper.np_dtype_to_tensor_dtype(place.dtype), place.shape))
    return shared


def _block(graph: SharedGraph, tensors: Sequence[onnx.TensorProto]) -> NDArray[np.uint8]:
    block = aligned_bytes(graph.block_bytes)
    for place, tensor in zip(graph.places, tensors, strict=True):
        there = block[place.offset : place.offset + place.nbytes].view(place.dtype).reshape(place.shape)
        there[...] = numpy_helper.to_array(tensor)
    return block
