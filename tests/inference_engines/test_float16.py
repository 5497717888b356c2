"""Networks in float16: close to float32 where they are sound, and told apart where they are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from benchmarks.varied_avatars import full_network, small_network
from inference_service.engines.devices import find_devices
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.graphs.float16 import to_float16
from inference_service.settings import GpuSection, OnnxSection

from ..inference_service.conftest import MakeAvatar, network
from .conftest import CPU, SHARING, on_cpu, run, windows


@pytest.mark.parametrize("gpu", [False, pytest.param(True, marks=pytest.mark.gpu)], ids=["CPU", "GPU"])
@pytest.mark.parametrize(
    ("build", "share"),
    [
        (network, False),
        (network, True),
        (small_network, False),
        (small_network, True),
        pytest.param(full_network, True, marks=pytest.mark.slow),
    ],
    ids=["one layer", "one layer, shared", "two layers", "two layers, shared", "full size, shared"],
)
def test_mouths_in_float16_are_close(
    make_avatar: MakeAvatar, build: Callable[[], onnx.ModelProto], *, share: bool, gpu: bool
) -> None:
    """On a CPU too, where weights and pictures are in float16 and sums in float32."""
    device = find_devices(GpuSection(enabled=True), OnnxSection())[0] if gpu else CPU
    avatar = make_avatar(model=build())
    shared = SharedSessions(SHARING) if share else None
    engine = OnnxEngine(avatar, device, SHARING, shared=shared, float16=True)
    exact, _ = run(on_cpu(avatar), [1, 0], windows(2) / 4)
    mouths, _ = run(engine, [1, 0], windows(2) / 4)
    assert np.square(mouths.astype(np.float64) - exact).mean() <= 1e-5  # 50 dB
    assert (engine.shared_memory is not None) == share
    assert engine.arithmetic.endswith("/float16")


def test_the_last_convolution_and_the_mean_stay_in_float32() -> None:
    model = to_float16(small_network(), "output")
    onnx.checker.check_model(model, full_check=True)
    halves = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    first, last = (node for node in model.graph.node if node.op_type == "Conv")
    assert first.input[1] in halves
    assert last.input[1] not in halves
    assert [value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]] == [TensorProto.FLOAT] * 3
    kinds = {value.name: value.type.tensor_type.elem_type for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    mean = next(node for node in model.graph.node if node.op_type == "ReduceMean")
    assert kinds[mean.output[0]] == TensorProto.FLOAT


@pytest.mark.parametrize("build", [network, small_network], ids=["one layer", "two layers"])
def test_mouths_are_not_rounded_to_float16(make_avatar: MakeAvatar, build: Callable[[], onnx.ModelProto]) -> None:
    """The converter rounds between nodes that stay in float32, and at the end."""
    engine = OnnxEngine(make_avatar(model=build()), CPU, SHARING, float16=True)
    mouths, _ = run(engine, [1, 0], windows(2) / 4)
    assert (mouths != mouths.astype(np.float16)).mean() > 0.9
