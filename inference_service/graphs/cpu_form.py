"""Rewrites a network into fewer and better placed operations: the form that a CPU runs quickest.

The network's blocks end in a linear 1x1 convolution, begin with one, and interpolate in between. All of that is linear, so it may
change places, and nothing else is computed, up to rounding (some 1e-6 of the output's range):

- a 1x1 convolution of [enlarged, skipped] is that of the small picture, enlarged, plus that of the skipped one: a quarter of the
  multiplications for the first part, and no copy for the concatenation;
- two 1x1 convolutions in a row are one, where the first makes more channels than it takes (the first block's), also with a
  concatenation in between;
- channels come in multiples of 16, the block of the AVX-512 layout, or that layout is left and entered again;
- a block whose wide middle would not stay in the processor's cache runs in slices of its channels, one after the other.

It takes any export of this family, whatever its names, and leaves alone what it does not recognise. A GPU has other needs: there
the plain graph is the one to use.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from inference_service.graphs.graph import Graph

log = logging.getLogger(__name__)

_BLOCK = 16  # channels in a block of ONNX Runtime's layout with AVX-512; a multiple of the 8 of AVX2
_CHANNELWISE = {"Relu", "Add", "Resize"}
# The grids of a Resize on which each value is a mean of values of one channel, with weights of sum 1.
_CONVEX = {b"align_corners", b"half_pixel", b"asymmetric", b"pytorch_half_pixel"}
_NO_CHANNEL = -1  # a channel of zeros


@dataclass(frozen=True, slots=True)
class Form:
    """The sizes at which a program computes quickest. They were found by trying."""

    value_bytes: int
    min_enlarged: int
    """Channels of an enlarged picture: with fewer, interpolating the convolution's many outputs costs more than it saves."""
    max_middle_bytes: int
    """A larger middle of a block leaves the last-level cache before it is read again."""
    slice_bytes: int = 7 * 2**20
    """A slice of one, its source and its result fit together."""
    revision: int = 1
    """Raise it with each change of what the form does: compiled networks are kept by it."""


ONNX_RUNTIME = Form(value_bytes=4, min_enlarged=32, max_middle_bytes=16 * 2**20)
OPENVINO = {
    "float32": Form(value_bytes=4, min_enlarged=64, max_middle_bytes=16 * 2**20),
    "bfloat16": Form(value_bytes=2, min_enlarged=64, max_middle_bytes=8 * 2**20),
}


def in_cpu_form(model: onnx.ModelProto, form: Form | None, name: str) -> onnx.ModelProto:
    """Returns the model of the file `name` in that form, or as it is, with a line in the log, where it contradicts itself."""
    try:
        return cpu_form(model, form) if form else model
    except Exception as error:  # weights that do not fit their shapes, and the like
        log.warning("%s cannot be rewritten for the CPU and runs as it is: %s", name, error)
        return model


def cpu_form(model: onnx.ModelProto, form: Form) -> onnx.ModelProto:
    """Returns an equivalent model for one item at a time on a CPU, or the given one where nothing is recognised.

    An open batch dimension is fixed to 1: a CPU gains nothing from batches. A model that is fixed to another size keeps it.
    """
    graph = Graph(model)
    for step in (partial(_enlarge_later, form=form), _merge_linear, partial(_fit_middle, form=form)):
        for node in graph.nodes:
            if graph.maker(node.output[0]) is node and (found := _pointwise(graph, node)):
                step(graph, found)
    return graph.model() if graph.changed else model


@dataclass(frozen=True, slots=True)
class _Convolution:
    """A convolution with constant weights, float64: weight [outputs, inputs per group, height, width], bias [outputs]."""

    node: onnx.NodeProto
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    groups: int

    @property
    def source(self) -> str:
        return str(self.node.input[0])

    @property
    def output(self) -> str:
        return str(self.node.output[0])

    def again(
        self,
        graph: Graph,
        weight: NDArray[np.float64],
        bias: NDArray[np.float64] | None,
        *,
        source: str | None = None,
        output: str | None = None,
    ) -> onnx.NodeProto:
        """Makes a node like this one with other constants (`bias` None: without), perhaps another source, a new output."""
        inputs = [source or self.source, graph.constant(weight)] + ([] if bias is None else [graph.constant(bias)])
        return graph.node("Conv", inputs, output, like=self.node, group=len(weight) if self.groups > 1 else 1)


def _enlarge_later(graph: Graph, whole: _Convolution, form: Form) -> None:
    """Makes of Conv(Concat[Resize(x), y]) Conv(y) + Resize(Conv(x))."""
    concat = graph.maker(whole.source, "Concat")
    if not concat or not graph.is_read_once(whole.source) or _attribute(concat, "axis", None) != 1:
        return
    parts = list(concat.input)
    resizes = [_interpolation(graph, part) if graph.is_read_once(part) else None for part in parts]
    first_shape = graph.shape(parts[0])
    if len(parts) != 2 or resizes.count(None) != 1 or len(first_shape) < 2 or not first_shape[1]:
        return
    enlarged = 0 if resizes[0] else 1
    resize = resizes[enlarged]
    weights = np.split(whole.weight, [first_shape[1]], axis=1)
    if not resize or weights[enlarged].shape[1] < form.min_enlarged:
        return
    small = whole.again(graph, weights[enlarged], None, source=resize.input[0])
    large = graph.node("Resize", [small.output[0], *resize.input[1:]], like=resize)
    skipped = whole.again(graph, weights[1 - enlarged], whole.bias, source=parts[1 - enlarged])
    graph.replace(whole.node, [small, large, skipped, graph.node("Add", [skipped.output[0], large.output[0]], whole.output)])


def _merge_linear(graph: Graph, first: _Convolution) -> None:
    """Gives 1x1 convolutions behind one that widens, with at most a concatenation in between, its input instead of its output."""
    readers = graph.readers(first.output)
    seconds = [_pointwise(graph, reader) or _behind_concat(graph, reader) for reader in readers]
    if first.output in graph.outputs or first.weight.shape[1] >= first.weight.shape[0] or not all(seconds):
        return
    for reader, second in zip(readers, seconds, strict=True):
        if second is None:
            continue
        parts = list(reader.input) if reader.op_type == "Concat" else [first.output]
        place = parts.index(first.output)
        before = sum(graph.shape(part)[1] or 0 for part in parts[:place])
        matrices = np.split(second.weight[:, :, 0, 0], [before, before + len(first.bias)], axis=1)
        bias = matrices[1] @ first.bias + second.bias
        matrices[1] = matrices[1] @ first.weight[:, :, 0, 0]
        parts[place] = first.source
        joined = [graph.node("Concat", parts, like=reader)] if reader.op_type == "Concat" else []
        source = joined[0].output[0] if joined else first.source
        weight = np.concatenate(matrices, axis=1)[:, :, None, None]
        graph.replace(second.node, [*joined, second.again(graph, weight, bias, source=source, output=second.output)])


def _behind_concat(graph: Graph, concat: onnx.NodeProto) -> _Convolution | None:
    """Returns the 1x1 convolution that alone reads a concatenation of different tensors, channel after channel."""
    parts = list(concat.input)
    if concat.op_type != "Concat" or _attribute(concat, "axis", None) != 1 or not graph.is_read_once(concat.output[0]):
        return None
    known = len(set(parts)) == len(parts) and all(len(graph.shape(part)) == 4 and graph.shape(part)[1] for part in parts)
    return _pointwise(graph, graph.readers(concat.output[0])[0]) if known else None


def _fit_middle(graph: Graph, project: _Convolution, form: Form) -> None:
    """Makes of expansion, depthwise convolution and projection a sum of the same over slices of the channels in the middle.

    Channels of zeros fill the last block. A block that adds its input is not sliced: it would need its input up to the last
    slice, so that the sums could not be made in the place of one another.
    """
    relu = graph.maker(project.source, "Relu")
    middle = _depthwise(graph, graph.maker(relu.input[0] if relu else project.source))
    readers = [found for reader in graph.readers(project.source) if (found := _pointwise(graph, reader))]
    if not middle or not _is_sliceable(graph, project.source, readers=len(readers)):
        return
    channels = np.arange(len(middle.bias))
    channels = np.pad(channels, (0, -len(channels) % _BLOCK), constant_values=_NO_CHANNEL)
    is_whole = len(readers) > 1 or [node.op_type for node in graph.readers(project.output)] == ["Add"]
    count = 1 if is_whole else _slice_count(graph.shape(middle.source)[2:], len(channels), form)
    if count == 1 and len(channels) == len(middle.bias):
        return
    new: list[onnx.NodeProto] = []
    totals = dict.fromkeys((reader.output for reader in readers), "")
    for number, some in enumerate(np.split(channels, count), 1):
        source = _sliced(graph, project.source, some, new)
        for reader in readers:
            total, last = totals[reader.output], reader.output if number == count else None
            weight = _chosen(reader.weight.swapaxes(0, 1), some).swapaxes(0, 1)
            part = reader.again(graph, weight, None if total else reader.bias, source=source, output=None if total else last)
            new += [part, graph.node("Add", [part.output[0], total], last)] if total else [part]
            totals[reader.output] = new[-1].output[0]
    for reader in readers:
        graph.replace(reader.node, new)
        new = []


def _slice_count(sides: tuple[int | None, ...], channels: int, form: Form) -> int:
    """Returns how many equal slices of whole blocks are small enough; 1 when all channels together are, or a side is unknown."""
    known = [side for side in sides if side]
    total, blocks = form.value_bytes * channels * math.prod(known), channels // _BLOCK
    if len(known) != 2 or total <= form.max_middle_bytes:
        return 1
    counts = [count for count in range(1, blocks + 1) if blocks % count == 0]
    return next((count for count in counts if total <= count * form.slice_bytes), blocks)


def _is_sliceable(graph: Graph, tensor: str, *, readers: int = 1) -> bool:
    """Tells if `_sliced` can make some of the tensor's channels without the others, and only those `readers` need the tensor."""
    node = graph.maker(tensor)
    if node is None or len(graph.readers(tensor)) != readers or tensor in graph.outputs:
        return False
    if _convolution(graph, node, is_dense=True):
        return True
    passes_on = bool(node.op_type in _CHANNELWISE or _depthwise(graph, node))
    return passes_on and all(_is_sliceable(graph, source) for source in _sources(node))


def _sliced(graph: Graph, tensor: str, channels: NDArray[np.int64], new: list[onnx.NodeProto]) -> str:
    """Adds to `new` the nodes that make those channels of a sliceable tensor, and returns the name of their result."""
    node = graph.maker(tensor)
    if node is None:
        raise ValueError(f"{tensor!r} is not made by a node")
    whole = _convolution(graph, node, is_dense=True)
    sources = [] if whole else [_sliced(graph, source, channels, new) for source in _sources(node)]
    if own := whole or _depthwise(graph, node):
        weight, bias = _chosen(own.weight, channels), _chosen(own.bias, channels)
        made = own.again(graph, weight, bias, source=sources[0] if sources else None)
    else:
        made = graph.node(node.op_type, [*sources, *node.input[len(sources) :]], like=node)
    new.append(made)
    return str(made.output[0])


def _sources(node: onnx.NodeProto) -> list[str]:
    """Returns the inputs that have channels: not the scales of a Resize."""
    return list(node.input[:2] if node.op_type == "Add" else node.input[:1])


def _chosen(values: NDArray[np.float64], channels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the values of those channels, which are counted along the first axis; zeros for _NO_CHANNEL, the last one here."""
    padded: NDArray[np.float64] = np.concatenate([values, np.zeros_like(values[:1])])[channels]
    return padded


def _pointwise(graph: Graph, node: onnx.NodeProto | None) -> _Convolution | None:
    """Takes a node as a dense 1x1 convolution without stride or padding: a matrix applied to each pixel."""
    found = _convolution(graph, node, is_dense=True)
    if found is None or found.weight.shape[2:] != (1, 1):
        return None
    plain = set(_attribute(found.node, "strides", [1])) == {1} and set(_attribute(found.node, "pads", [0])) == {0}
    return found if plain else None


def _depthwise(graph: Graph, node: onnx.NodeProto | None) -> _Convolution | None:
    """Takes a node as a convolution of each channel by itself."""
    found = _convolution(graph, node, is_dense=False)
    return found if found and found.weight.shape[1] == 1 and found.groups == len(found.bias) else None


def _convolution(graph: Graph, node: onnx.NodeProto | None, *, is_dense: bool) -> _Convolution | None:
    """Takes a node as a convolution; a dense one, in which every output reads every input channel, or another."""
    if node is None or node.op_type != "Conv" or _attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    groups = _attribute(node, "group", 1)
    weight = graph.value(node.input[1])
    if (groups == 1) != is_dense or weight is None or weight.ndim != 4 or weight.dtype != np.float32:
        return None
    bias = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(len(weight))
    return None if bias is None else _Convolution(node, weight.astype(np.float64), bias.astype(np.float64), groups)


def _interpolation(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """Returns the Resize that makes the tensor, when each of its values is a mean of values of one channel."""
    node = graph.maker(tensor, "Resize")
    scales = graph.value(node.input[2]) if node is not None and len(node.input) > 2 else None
    if node is None or scales is None or scales.shape != (4,) or scales[0] != 1 or scales[1] != 1:
        return None
    if _attribute(node, "mode", b"nearest") not in {b"linear", b"nearest"} or _attribute(node, "antialias", 0):
        return None
    return node if _attribute(node, "coordinate_transformation_mode", b"half_pixel") in _CONVEX else None


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Returns an attribute's value; texts are bytes."""
    return next((helper.get_attribute_value(found) for found in node.attribute if found.name == name), default)
