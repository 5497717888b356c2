from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper

from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_files import has_side_files, load_model, runtime_reason
from avatar_kit.onnx_io import EncoderIO, NetworkIO, encoder_io, network_io

Make = Callable[..., onnx.ModelProto]


def model(inputs: dict[str, Any], outputs: dict[str, Any], weights: dict[str, Any] | None = None) -> onnx.ModelProto:
    """A graph with those ends; what lies between does not matter. A shape may be a pair of shape and element type."""

    def ends(shapes: dict[str, Any]) -> list[onnx.ValueInfoProto]:
        kinds = {name: shape if isinstance(shape, tuple) else (shape, TensorProto.FLOAT) for name, shape in shapes.items()}
        return [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in kinds.items()]

    node = helper.make_node("Anything", list(inputs), list(outputs))
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    return helper.make_model(helper.make_graph([node], "g", ends(inputs), ends(outputs), initializers))


VISUAL, AUDIO, MOUTH = ["N", 6, 320, 320], ["N", 32, 16, 16], ["N", 3, 320, 320]


@pytest.mark.parametrize("names", list(itertools.permutations(["input", "audio", "x"], 2)), ids=str)
@pytest.mark.parametrize("swapped", [False, True])
def test_inputs_are_bound_by_shape_whatever_their_names_and_order(names: tuple[str, str], swapped: bool) -> None:
    ends = {names[0]: VISUAL, names[1]: AUDIO}
    inputs = dict(reversed(ends.items())) if swapped else ends
    assert network_io(model(inputs, {"y": MOUTH})) == NetworkIO(visual=names[0], audio=names[1], output="y", batch=None)


@pytest.mark.parametrize(
    ("batch", "read"), [("N", None), ("batch_size", None), (None, None), (-1, None), (1, 1), (8, 8)], ids=str
)
def test_the_batch_size_is_read(batch: object, read: int | None) -> None:
    ends = [[batch, *shape[1:]] for shape in (VISUAL, AUDIO, MOUTH)]
    assert network_io(model({"v": ends[0], "a": ends[1]}, {"y": ends[2]})).batch == read


def test_one_fixed_batch_size_fixes_all() -> None:
    assert network_io(model({"v": [1, 6, 320, 320], "a": AUDIO}, {"y": MOUTH})).batch == 1


def test_open_heights_and_widths_are_taken_for_what_fits() -> None:
    assert network_io(model({"a": ["N", 32, 16, 16], "v": ["N", 6, "h", "w"]}, {"y": ["N", 3, "h", "w"]})).visual == "v"


def test_an_output_without_a_shape_is_taken() -> None:
    assert network_io(model({"v": VISUAL, "a": AUDIO}, {"y": None})).output == "y"


def test_weights_among_the_inputs_are_not_inputs() -> None:
    """Files before IR version 4 list them so."""
    inputs = {"v": VISUAL, "a": AUDIO, "w": [16, 3]}
    assert network_io(model(inputs, {"y": MOUTH}, {"w": np.zeros((16, 3), np.float32)})).audio == "a"


def test_other_outputs_are_left_alone() -> None:
    assert network_io(model({"v": VISUAL, "a": AUDIO}, {"features": ["N", 512, 10, 10], "y": MOUTH})).output == "y"


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        ({"v": VISUAL, "a": ["N", 32, 32, 32]}, {"y": MOUTH}, "hubert"),
        ({"v": VISUAL, "a": ["N", 256, 16, 32]}, {"y": MOUTH}, "wenet"),
        ({"v": ["N", 3, 320, 320], "a": AUDIO}, {"y": MOUTH}, r"inputs .*'v' \[\?, 3, 320, 320\].* do not fit"),
        ({"v": ["N", 6, 160, 160], "a": AUDIO}, {"y": MOUTH}, "do not fit"),
        ({"v": [6, 320, 320], "a": AUDIO}, {"y": MOUTH}, "do not fit"),
        ({"v": VISUAL}, {"y": MOUTH}, "do not fit"),
        ({}, {"y": MOUTH}, r"\(none\) do not fit"),
        ({"v": VISUAL, "a": AUDIO, "z": [1]}, {"y": MOUTH}, "do not fit"),
        ({"v": (VISUAL, TensorProto.FLOAT16), "a": AUDIO}, {"y": MOUTH}, "not float32"),
        ({"v": (VISUAL, TensorProto.UINT8), "a": AUDIO}, {"y": MOUTH}, "not float32"),
        ({"v": None, "a": None}, {"y": MOUTH}, "either way"),
        ({"v": VISUAL, "a": AUDIO}, {"y": ["N", 1, 320, 320]}, "no output that fits"),
        ({"v": VISUAL, "a": AUDIO}, {"y": (MOUTH, TensorProto.FLOAT16)}, "no output that fits"),
        ({"v": VISUAL, "a": AUDIO}, {"y": MOUTH, "z": MOUTH}, "more than one output"),
        ({"v": [1, 6, 320, 320], "a": [2, 32, 16, 16]}, {"y": MOUTH}, "different batch sizes"),
    ],
)
def test_what_does_not_fit_is_named(inputs: dict[str, Any], outputs: dict[str, Any], says: str) -> None:
    with pytest.raises(BrokenAvatar, match=says):
        network_io(model(inputs, outputs))


@pytest.mark.parametrize("name", ["mel_input", "mel_spectrogram"])
def test_encoders_are_bound_by_shape(name: str) -> None:
    assert encoder_io(model({name: ["N", 1, 80, 16]}, {"audio_features": ["N", 512]})) == EncoderIO(name, "audio_features", None)


@pytest.mark.parametrize("shape", [["N", 80, 16], ["N", 1, 16, 80], ["N", 1, 128, 16]], ids=str)
def test_other_encoders_are_refused(shape: list[object]) -> None:
    with pytest.raises(BrokenAvatar, match=r"expected \[N, 1, 80, 16\]"):
        encoder_io(model({"mel": shape}, {"rows": ["N", 512]}))


def test_an_encoder_is_no_network_and_the_other_way_round(network: Make, encoder: Make) -> None:
    with pytest.raises(BrokenAvatar):
        network_io(encoder())
    with pytest.raises(BrokenAvatar):
        encoder_io(network())


def test_a_file_is_read_and_named(tmp_path: Path, network: Make) -> None:
    path = tmp_path / "model_best.onnx"
    onnx.save(network(1), path)
    assert network_io(path).batch == 1
    data = path.read_bytes()
    for damaged in (b"", data[: len(data) // 2], b"PK\x03\x04 a checkpoint", bytes(1000)):
        path.write_bytes(damaged)
        with pytest.raises(BrokenAvatar, match=r"^model_best.onnx is ") as caught:
            network_io(path)
        assert str(tmp_path) not in str(caught.value)
    path.unlink()
    with pytest.raises(BrokenAvatar, match="missing"):
        network_io(path)
    path.mkdir()
    with pytest.raises(BrokenAvatar, match="regular file"):
        network_io(path)


def test_weights_in_a_file_beside_it_are_read(tmp_path: Path, network: Make) -> None:
    path = tmp_path / "n.onnx"
    onnx.save_model(network(), path, save_as_external_data=True, location="n.onnx.data", size_threshold=0)
    assert load_model(path).graph == network().graph
    assert has_side_files(path)
    (tmp_path / "n.onnx.data").write_bytes((tmp_path / "n.onnx.data").read_bytes()[:5])
    with pytest.raises(BrokenAvatar, match=r"^n.onnx keeps weights in n.onnx.data, which is shorter than it says"):
        load_model(path)
    (tmp_path / "n.onnx.data").unlink()
    with pytest.raises(BrokenAvatar, match=r"^n.onnx keeps weights in n.onnx.data, which is missing"):
        load_model(path)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"location": "../../../../etc/hostname"}, "which is not a path inside"),
        ({"location": "/etc/hostname"}, "which is not a path inside"),
        ({"location": "link"}, "which leads out of the avatar's folder"),
        ({"location": "large"}, "has 11811160064 bytes of weights in other files, more than the 268435456 allowed"),
        ({"location": "large", "length": "word"}, "but not with numbers"),
        ({"location": "large", "offset": "-1"}, "but not with numbers"),
        ({}, "which is not a path inside"),
    ],
)
def test_weights_from_elsewhere_are_refused_unread(tmp_path: Path, network: Make, entries: dict[str, str], says: str) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(11 << 30)
    foreign = network()
    tensor = foreign.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "n.onnx").write_bytes(foreign.SerializeToString())
    with pytest.raises(BrokenAvatar) as caught:
        load_model(tmp_path / "n.onnx")
    assert says in str(caught.value)


def _of_a_sparse_constant(model: onnx.ModelProto) -> TensorProto:
    attribute = model.graph.node.add(op_type="Constant").attribute.add(type=AttributeProto.SPARSE_TENSOR)
    return attribute.sparse_tensor.values


def _of_several_sparse_constants(model: onnx.ModelProto) -> TensorProto:
    return model.graph.node.add(op_type="Constant").attribute.add(type=AttributeProto.SPARSE_TENSORS).sparse_tensors.add().indices


def _of_a_functions_default(model: onnx.ModelProto) -> TensorProto:
    return model.functions.add(name="f").attribute_proto.add(type=AttributeProto.TENSOR).t


def _of_a_body(model: onnx.ModelProto) -> TensorProto:
    body = model.functions.add(name="f").node.add(op_type="Loop").attribute.add(type=AttributeProto.GRAPH).g
    return body.sparse_initializer.add().values


@pytest.mark.parametrize(
    "place",
    [_of_a_sparse_constant, _of_several_sparse_constants, _of_a_functions_default, _of_a_body],
    ids=lambda place: place.__name__,
)
def test_weights_from_elsewhere_are_refused_wherever_the_model_has_them(
    tmp_path: Path, network: Make, place: Callable[[onnx.ModelProto], TensorProto]
) -> None:
    """ONNX Runtime and OpenVINO read the values of a sparse constant from any file of the machine."""
    foreign = network()
    tensor = place(foreign)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/hostname")
    (tmp_path / "n.onnx").write_bytes(foreign.SerializeToString())
    with pytest.raises(BrokenAvatar, match=r"keeps weights in .*, which is not a path inside"):
        load_model(tmp_path / "n.onnx")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings().max_examples * 150 // 100)
@given(st.data())
def test_any_damage_gives_a_binding_or_a_problem(tmp_path: Path, network: Make, data: st.DataObject) -> None:
    content = bytearray(network().SerializeToString())
    for _ in range(data.draw(st.integers(1, 10))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "n.onnx"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(BrokenAvatar):
        network_io(path)


CUDA_CALL = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:{} std::conditional_t<THRW, void, common::Status> "
    "CudaCall(ERRTYPE, const char*, SUCCTYPE, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError] "
)
WHERE = "; GPU=0 ; hostname=vm ; file=/onnxruntime_src/core/providers/cuda/cuda_graph.cc ; line=61 ; expr=call(a, &b); \n\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"Error in execution: {CUDA_CALL.format(154)}{CUDA_CALL.format(146)}CUDA failure 901: operation failed {WHERE}",
            "Error in execution: CUDA failure 901: operation failed",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'conv' Status Message: "
            f"CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED {WHERE}",
            "Non-zero status code returned while running Conv node. Name:'conv' Status Message: CUDNN_FE failure 11: "
            "CUDNN_BACKEND_API_FAILED",
        ),
    ],
)
def test_a_failure_of_a_gpu_is_told_without_the_machine_and_the_source(text: str, reason: str) -> None:
    assert runtime_reason(RuntimeError(text)) == reason
