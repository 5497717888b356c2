"""The CPU form of a network computes the same; it does so with less, and leaves alone what it does not know."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from avatar_kit.geometry import Mask
from avatar_tools.networks.free import free_network
from avatar_tools.networks.graph import BATCH
from avatar_tools.networks.random_weights import random_weights
from avatar_tools.networks.unet import UNET
from inference_service.graphs.cpu_form import ONNX_RUNTIME, OPENVINO, Form, cpu_form
from inference_service.graphs.wrapping import wrap_network
from tools.demo_drawing.expressions import ExpressionGraph, Value

from .conftest import with_batch

Array = NDArray[Any]


@pytest.fixture(scope="module")
def unet() -> onnx.ModelProto:
    return UNET.graph(random_weights(UNET, 3))


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    values = onnx.shape_inference.infer_shapes(model).graph.value_info
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def products(model: onnx.ModelProto) -> int:
    """Multiplications in the convolutions of one item."""
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    found = shapes(model)
    return sum(
        math.prod(sizes[node.input[1]]) * math.prod(found[node.output[0]][2:])
        for node in model.graph.node
        if node.op_type == "Conv"
    )


def plainly(model: onnx.ModelProto, **inputs: Array) -> Array:
    """Output of ONNX Runtime without any optimisation of its own."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return np.asarray(onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, inputs)[0])


def test_it_multiplies_less_and_holds_less(unet: onnx.ModelProto) -> None:
    form, fixed = cpu_form(unet, ONNX_RUNTIME), with_batch(unet, 1)

    assert products(form) < 0.81 * products(fixed)
    assert max(4 * math.prod(shape) for shape in shapes(fixed).values()) > 50e6
    assert max(4 * math.prod(shape) for shape in shapes(form).values()) < 17e6
    channels = {shape[1] for name, shape in shapes(form).items() if len(shape) == 4}
    assert {count for count in channels if count % 16} == {3}  # the mouth
    assert Counter(node.op_type for node in form.graph.node)["Concat"] == 1


def test_openvinos_form_multiplies_less_and_skips_over_fewer_channels(unet: onnx.ModelProto) -> None:
    form, fixed = cpu_form(unet, OPENVINO["bfloat16"]), with_batch(unet, 1)

    assert products(form) < 0.87 * products(fixed)
    joined = [node for node in form.graph.node if node.op_type == "Concat"]
    widths = [shapes(form)[node.output[0]][1] for node in joined]
    assert widths == [1024, 64, 44]  # the sound's, and those of the two largest pictures: the last was 64
    assert max(2 * math.prod(shape) for shape in shapes(form).values()) < 14e6


def test_the_given_model_stays_as_it_is(unet: onnx.ModelProto) -> None:
    before = unet.SerializeToString(deterministic=True)

    cpu_form(unet, ONNX_RUNTIME)

    assert unet.SerializeToString(deterministic=True) == before


def test_it_is_the_same_each_time(unet: onnx.ModelProto) -> None:
    once, again = cpu_form(unet, ONNX_RUNTIME), cpu_form(unet, ONNX_RUNTIME)

    assert once.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)


def test_an_export_with_other_names_and_weights_in_nodes_is_recognised(
    unet: onnx.ModelProto, run: Any, picture: Array, sound: Array
) -> None:
    foreign = with_batch(unet, 1)
    graph = foreign.graph
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
    nodes = [*constants, *graph.node]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    renamed = {"input": "in.0", "audio": "in.1", "output": "out"}
    for node in graph.node:
        node.name = ""
        for field in (node.input, node.output):
            names = [renamed.get(name, f"/{name}" if name else "") for name in field]
            del field[:]
            field.extend(names)
    for value in [*graph.input, *graph.output]:
        value.name = renamed[value.name]

    form = cpu_form(foreign, ONNX_RUNTIME)

    assert products(form) == products(cpu_form(unet, ONNX_RUNTIME))
    expected = run(unet, input=picture[:1], audio=sound[:1])
    assert np.abs(run(form, **{"in.0": picture[:1], "in.1": sound[:1]}) - expected).max() < 1e-5


def test_another_fixed_batch_stays(unet: onnx.ModelProto) -> None:
    fixed = with_batch(unet, 3)
    before = fixed.SerializeToString(deterministic=True)

    form = cpu_form(fixed, ONNX_RUNTIME)

    assert fixed.SerializeToString(deterministic=True) == before
    assert {value.type.tensor_type.shape.dim[0].dim_value for value in [*form.graph.input, *form.graph.output]} == {3}


def test_weights_listed_as_inputs_are_no_inputs_afterwards() -> None:
    model = upsampling_block()
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims) for tensor in model.graph.initializer
    )
    x = np.random.default_rng(0).standard_normal((1, 32, 6, 7)).astype(np.float32)

    form = cpu_form(model, ONNX_RUNTIME)

    assert np.allclose(plainly(form, x=x), plainly(model, x=x), atol=1e-5)


def convolution(x: Value, weight: Array, bias: Array, name: str, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Value:
    constants = (x.graph.constant(weight, f"{name}.weight"), x.graph.constant(bias, f"{name}.bias"))
    return x.graph.node("Conv", x, *constants, name=name, strides=[stride] * 2, pads=[padding] * 4, group=groups)


def upsampling_block(**resize: Any) -> onnx.ModelProto:
    """1x1(concat[x made twice as large, another branch]) with 32 channels of x."""
    generator = np.random.default_rng(1)
    graph = ExpressionGraph()
    x = graph.input("x", [BATCH, 32, 6, 7])
    attributes = {"mode": "linear", "coordinate_transformation_mode": "align_corners"} | resize
    scales = np.array([1, 1, 2, 2], np.float32)
    other = graph.node("Resize", x, None, scales, mode="nearest")
    whole = graph.join([graph.node("Resize", x, None, scales, **attributes), graph.node("Relu", other)], axis=1)
    y = convolution(whole, generator.standard_normal((5, 64, 1, 1)), generator.standard_normal(5), "y")
    return graph.model("block", {"y": (y, [BATCH, 5, 12, 14])})


@pytest.mark.parametrize("mode", ["align_corners", "half_pixel", "asymmetric", "pytorch_half_pixel"])
def test_interpolation_and_convolution_change_places(mode: str) -> None:
    model = upsampling_block(coordinate_transformation_mode=mode)
    x = np.random.default_rng(0).standard_normal((1, 32, 6, 7)).astype(np.float32)

    form = cpu_form(model, ONNX_RUNTIME)

    assert "Concat" not in {node.op_type for node in form.graph.node}
    assert np.allclose(plainly(form, x=x), plainly(model, x=x), atol=1e-5)


@pytest.mark.parametrize(
    "resize", [{"mode": "cubic"}, {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}], ids=["cubic", "another grid"]
)
def test_what_is_no_mean_of_pixels_stays_where_it_is(resize: dict[str, str]) -> None:
    model = upsampling_block(**resize)

    assert cpu_form(model, ONNX_RUNTIME) is model


def test_a_tensor_that_a_branch_inside_a_node_reads_is_kept() -> None:
    graph, generator = ExpressionGraph(), np.random.default_rng(2)
    wide = convolution(graph.input("x", [BATCH, 16, 4, 4]), generator.standard_normal((32, 16, 1, 1)), np.zeros(32), "wide")
    again = convolution(wide, generator.standard_normal((16, 32, 1, 1)), np.zeros(16), "again")
    condition = graph.node("Cast", 1.0, to=TensorProto.BOOL)

    def branch(kind: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{kind}_out", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, ["wide"], [f"{kind}_out"])], kind, [], [out])

    chosen = graph.node("If", condition, then_branch=branch("Abs"), else_branch=branch("Neg"))
    y = graph.node("Relu", again) + graph.node("ReduceMean", chosen, axes=[1], keepdims=1)
    model = graph.model("captured", {"y": (y, [BATCH, 16, 4, 4])})
    x = generator.standard_normal((1, 16, 4, 4)).astype(np.float32)

    assert np.allclose(plainly(cpu_form(model, ONNX_RUNTIME), x=x), plainly(model, x=x), atol=1e-4)


class Blocks:
    """Random networks of the family's kinds of layer, small."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.count = 0

    def conv(self, x: Value, inputs: int, outputs: int, *, depthwise: bool = False, stride: int = 1) -> Value:
        self.count += 1
        shape = (outputs, 1, 3, 3) if depthwise else (outputs, inputs, 1, 1)
        weight = self.generator.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
        sizes = {"stride": stride, "padding": int(depthwise), "groups": outputs if depthwise else 1}
        return convolution(x, weight, self.generator.standard_normal(outputs), f"conv{self.count}", **sizes)

    def residual(self, x: Value, inputs: int, middle: int, outputs: int, *, stride: int, adds: bool) -> Value:
        y = x.graph.node("Relu", self.conv(x, inputs, middle))
        y = x.graph.node("Relu", self.conv(y, middle, middle, depthwise=True, stride=stride))
        y = self.conv(y, middle, outputs)
        return y + x if adds else y


widths = st.sampled_from([3, 6, 12, 16, 32, 48])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    stem=st.tuples(widths, widths),
    low=st.tuples(widths, widths),
    top=st.tuples(widths, widths),
    adds=st.booleans(),
    skip_first=st.booleans(),
    slice_bytes=st.sampled_from([16, 4 * 16 * 64, 2**20]),
    min_enlarged=st.sampled_from([16, 1000]),
)
def test_random_networks_stay_the_same(
    seed: int,
    stem: tuple[int, int],
    low: tuple[int, int],
    top: tuple[int, int],
    adds: bool,
    skip_first: bool,
    slice_bytes: int,
    min_enlarged: int,
) -> None:
    blocks, graph = Blocks(seed), ExpressionGraph()
    skip = blocks.residual(graph.input("x", [BATCH, 6, 8, 8]), 6, stem[0], stem[1], stride=1, adds=False)
    x = blocks.residual(skip, stem[1], low[0], low[1], stride=2, adds=False)
    x = blocks.residual(x, low[1], low[0], low[1], stride=1, adds=adds)
    scales, align = np.array([1, 1, 2, 2], np.float32), "align_corners"
    up = graph.node("Resize", x, None, scales, mode="linear", coordinate_transformation_mode=align)
    whole = graph.join([skip, up] if skip_first else [up, skip], axis=1)
    x = blocks.residual(whole, stem[1] + low[1], top[0], top[1], stride=1, adds=False)
    x = blocks.residual(x, top[1], 2 * top[1], top[1], stride=1, adds=adds)
    model = graph.model("random", {"y": (x.sigmoid(), [BATCH, top[1], 8, 8])})
    picture = blocks.generator.random((1, 6, 8, 8)).astype(np.float32)

    form = cpu_form(model, Form(value_bytes=4, min_enlarged=min_enlarged, max_middle_bytes=slice_bytes, slice_bytes=slice_bytes))

    onnx.checker.check_model(form, full_check=True)
    assert np.abs(plainly(form, x=picture) - plainly(model, x=picture)).max() < 1e-5


def test_a_network_of_another_family_passes_unchanged() -> None:
    weight = numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 7, 7])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    assert cpu_form(model, ONNX_RUNTIME) is model


def test_a_network_that_costs_nothing_keeps_its_open_batch() -> None:
    model = free_network(np.zeros((2, 320, 320, 3), np.uint8))

    assert cpu_form(model, ONNX_RUNTIME) is model


def test_shapes_stay_known_behind_nodes_of_unknown_shape(unet: onnx.ModelProto, tmp_path: Path) -> None:
    """The service gathers the pictures from a bank, how many is open to ONNX's inference."""
    path = tmp_path / "network.onnx"
    path.write_bytes(unet.SerializeToString())

    model, network = wrap_network(path, Mask(), for_cpu=True, fixed_reference=False)

    onnx.checker.check_model(model, full_check=True)
    assert network.batch == 1
    known = shapes(model)
    assert len(known) > 200
    around = ("lipsync/pre/", "lipsync/post/")
    assert all(shape[0] == 1 for name, shape in known.items() if len(shape) == 4 and not name.startswith(around))
