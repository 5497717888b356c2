"""The same network in fewer and better placed operations: what ONNX Runtime's CPU provider runs quickest.

The network's blocks end in a linear 1x1 convolution, begin with one, and interpolate in between. All of that is linear, so it may
change places, and nothing else is computed, up to rounding (some 1e-6 of the output's range):

- a 1x1 convolution of [enlarged, skipped] is that of the small picture, enlarged, plus that of the skipped one: a quarter of the
  multiplications for the first part, and no copy for the concatenation;
- two 1x1 convolutions in a row are one, where the first makes more channels than it takes (the first block's);
- channels come in multiples of 16, the block of the AVX-512 layout, or that layout is left and entered again;
- a block whose wide middle would not stay in the processor's cache runs in slices of its channels, one after the other.

It takes any export of this family, whatever its names, and leaves alone what it does not recognise. A GPU has other needs: there
the plain graph is the one to use.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inference_service.graphs.batch import with_static_batch
from inference_service.graphs.patterns import attribute, dense, depthwise, interpolation, pointwise, with_constants
from inference_service.graphs.rewriting import Rewriting
from inference_service.graphs.slicing import sliceable, sliced

_BLOCK = 16  # channels in a block of ONNX Runtime's layout with AVX-512; a multiple of the 8 of AVX2
_MIN_ENLARGED = 32  # with fewer channels, interpolating the convolution's many outputs costs more than it saves
_MAX_MIDDLE_BYTES = 16 * 2**20  # a larger one leaves the last-level cache before it is read again
_SLICE_BYTES = 7 * 2**20  # a slice, what it is made from and what it becomes fit together


def cpu_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """An equivalent model for one item at a time on a CPU; the given one stays as it is.

    An open batch dimension is fixed to 1: ONNX Runtime adds in place only where it knows all shapes, and a CPU gains nothing
    from batches. A model that is fixed to another size keeps it; one in which nothing is recognised is returned as it is.
    """
    graph = Rewriting(_closed(model))
    for step in (_enlarge_later, _merge_linear, _fill_blocks, _slice_middle):
        for node in graph.nodes:
            if graph.has(node):
                step(graph, node)
    if not graph.changed:
        return model
    _pin_input_shapes(graph)
    return graph.model()


def _closed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without an open batch dimension."""
    try:
        return with_static_batch(model, 1)
    except ValueError:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy


def _enlarge_later(graph: Rewriting, node: onnx.NodeProto) -> None:
    """Conv(Concat[Resize(x), y]) becomes Conv(y) + Resize(Conv(x))."""
    whole = pointwise(graph, node)
    concat = graph.made_by(whole.source, "Concat") if whole else None
    if not whole or not concat or not graph.read_once(whole.source) or attribute(concat, "axis", None) != 1:
        return
    parts = list(concat.input)
    resizes = [interpolation(graph, part) if graph.read_once(part) else None for part in parts]
    if len(parts) != 2 or resizes.count(None) != 1:
        return
    enlarged = 0 if resizes[0] else 1
    resize, width = resizes[enlarged], _channels(graph, parts[0])
    if not resize or not width:
        return
    weights = np.split(whole.weight, [width], axis=1)
    if weights[enlarged].shape[1] < _MIN_ENLARGED:
        return
    small = with_constants(graph, whole, weights[enlarged], None, source=resize.input[0])
    large = graph.node("Resize", [small.output[0], *resize.input[1:]])
    large.attribute.extend(resize.attribute)
    skipped = with_constants(graph, whole, weights[1 - enlarged], whole.bias, source=parts[1 - enlarged])
    graph.replace(node, [small, large, skipped, graph.node("Add", [skipped.output[0], large.output[0]], whole.output)])


def _merge_linear(graph: Rewriting, node: onnx.NodeProto) -> None:
    """1x1 convolutions behind one that widens, with nothing in between, take its input instead of its output."""
    first = pointwise(graph, node)
    if not first or graph.is_output(first.output) or first.weight.shape[1] >= first.weight.shape[0]:
        return
    seconds = [pointwise(graph, reader) for reader in graph.readers(first.output)]
    if not all(seconds):
        return
    matrix = first.weight[:, :, 0, 0]
    for second in filter(None, seconds):
        outer = second.weight[:, :, 0, 0]
        weight, bias = (outer @ matrix)[:, :, None, None], outer @ first.bias + second.bias
        graph.replace(second.node, [with_constants(graph, second, weight, bias, source=first.source, output=second.output)])


def _fill_blocks(graph: Rewriting, node: onnx.NodeProto) -> None:
    """Between a convolution, a depthwise one and 1x1 ones, channels of zeros fill the last block."""
    middle = depthwise(graph, node)
    lacking = -len(middle.bias) % _BLOCK if middle else 0
    if not middle or not lacking:
        return
    expand = dense(graph, graph.made_by(_before_relu(graph, middle.source)))
    behind = _behind_relu(graph, middle.output)
    readers = [pointwise(graph, reader) for reader in graph.readers(behind)]
    if not expand or not all(readers) or graph.is_output(behind):
        return
    if not graph.read_once(middle.source) or not graph.read_once(expand.output):
        return
    for made in (expand, middle):
        weight, bias = _with_zeros(made.weight, lacking), _with_zeros(made.bias, lacking)
        graph.replace(made.node, [with_constants(graph, made, weight, bias, output=made.output)])
    for reader in filter(None, readers):
        weight = _with_zeros(reader.weight, lacking, axis=1)
        graph.replace(reader.node, [with_constants(graph, reader, weight, reader.bias, output=reader.output)])


def _slice_middle(graph: Rewriting, node: onnx.NodeProto) -> None:
    """Expansion, depthwise convolution and projection become a sum of the same over slices of the channels in the middle.

    A block that adds its input is left whole: it would need its input up to the last slice, so that the sums could not be made
    in the place of one another.
    """
    project = pointwise(graph, node)
    middle = depthwise(graph, graph.made_by(_before_relu(graph, project.source))) if project else None
    if not project or not middle or _adds_its_input(graph, project.output) or not sliceable(graph, project.source):
        return
    count = _slice_count(graph, middle.source, len(middle.bias))
    if count == 1:
        return
    new: list[onnx.NodeProto] = []
    total = ""
    for number, channels in enumerate(np.split(np.arange(len(middle.bias)), count), 1):
        source = sliced(graph, project.source, channels, new)
        bias = None if total else project.bias
        last = number == count
        part = with_constants(graph, project, project.weight[:, channels], bias, source=source)
        new.append(part)
        if total:
            new.append(graph.node("Add", [part.output[0], total], project.output if last else None))
        total = new[-1].output[0]
    graph.replace(node, new)


def _pin_input_shapes(graph: Rewriting) -> None:
    """Each input is taken as of its full shape, also when nodes of unknown shape are put in front of it later."""
    for name in graph.inputs:
        shape = graph.shape(name)
        if shape and None not in shape:
            graph.insert_behind(name, graph.node("Reshape", [name, graph.integers(shape)]))


def _slice_count(graph: Rewriting, tensor: str, channels: int) -> int:
    """How many equal slices of whole blocks bring the tensor's slices down to size; 1 when it is small enough as it is."""
    sides = [size for size in graph.shape(tensor)[2:] if size]
    blocks, rest = divmod(channels, _BLOCK)
    total = 4 * channels * math.prod(sides)
    if len(sides) != 2 or rest or total <= _MAX_MIDDLE_BYTES:
        return 1
    counts = [count for count in range(1, blocks + 1) if blocks % count == 0]
    return next((count for count in counts if total <= count * _SLICE_BYTES), blocks)


def _adds_its_input(graph: Rewriting, tensor: str) -> bool:
    readers = graph.readers(tensor)
    return len(readers) == 1 and readers[0].op_type == "Add"


def _before_relu(graph: Rewriting, tensor: str) -> str:
    relu = graph.made_by(tensor, "Relu")
    return str(relu.input[0]) if relu else tensor


def _behind_relu(graph: Rewriting, tensor: str) -> str:
    readers = graph.readers(tensor)
    return str(readers[0].output[0]) if len(readers) == 1 and readers[0].op_type == "Relu" else tensor


def _channels(graph: Rewriting, tensor: str) -> int | None:
    shape = graph.shape(tensor)
    return shape[1] if len(shape) > 1 else None


def _with_zeros(values: NDArray[np.float64], count: int, *, axis: int = 0) -> NDArray[np.float64]:
    padding: list[Any] = [(0, count if number == axis else 0) for number in range(values.ndim)]
    return np.pad(values, padding)
