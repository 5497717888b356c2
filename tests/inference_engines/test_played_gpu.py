"""An engine as it is on a GPU, with graphs, sizes of runs, streams and an arena, on the CPU: the mouths are the plain ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference_service.engines.capturing import GATE
from inference_service.engines.crop_arena import CROP_BYTES, CropArena
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import OnnxSection

from ..inference_service.conftest import MakeAvatar
from ..played_gpu import GPU
from .conftest import on_cpu, run, windows

PATIENCE_S = 60


def network_without_convolutions() -> onnx.ModelProto:
    """sigmoid(the reference's channels - half the masked ones + mean of the window)."""
    nodes = [
        helper.make_node("Split", ["input", "three"], ["seen", "masked"], axis=1),
        helper.make_node("Mul", ["masked", "half"], ["less"]),
        helper.make_node("Sub", ["seen", "less"], ["mixed"]),
        helper.make_node("ReduceMean", ["sound"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Add", ["mixed", "mean"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["mouth"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("sound", TensorProto.FLOAT, ["batch", 32, 16, 16]),
            helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 6, 320, 320]),
        ],
        [helper.make_tensor_value_info("mouth", TensorProto.FLOAT, ["batch", 3, 320, 320])],
        [
            numpy_helper.from_array(np.array([3, 3], np.int64), "three"),
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("slots", [0, 4, 32], ids=["no arena", "a small arena", "an arena"])
@pytest.mark.parametrize("reference", [None, 3])
def test_mouths_are_the_plain_ones(make_avatar: MakeAvatar, slots: int, reference: int | None) -> None:
    options = OnnxSection(intra_op_threads=1, cuda_graphs=True, batch_buckets=(1, 2), cuda_streams_per_worker=2)
    arena = CropArena(GPU, slots * CROP_BYTES) if slots else None
    avatar = make_avatar(model=network_without_convolutions(), reference_frame=reference)
    engine = OnnxEngine(avatar, GPU, options, max_batch=4, arena=arena, shared=SharedSessions(options))
    engine.warm_up()
    assert engine.run_sizes == (1, 2, 4)
    plain = on_cpu(avatar)
    sent = np.random.default_rng(3).uniform(0, 1, (2, 6, 320, 320)).astype(np.float32)
    for turn, frames in enumerate([[0], [4, 2], [1, 3, 0], [2, 2, 4, 1, 0, 3, 1]]):
        sound = windows(len(frames), turn)
        expected, wanted = run(plain, frames, sound)
        floats, output = run(engine, frames, sound)
        np.testing.assert_allclose(floats, expected, atol=2e-6)
        assert output.finite.all()
        assert wanted.mouths_uint8 is not None
        assert output.mouths_uint8 is not None
        assert np.abs(output.mouths_uint8.astype(int) - wanted.mouths_uint8).max() <= 1
    expected, _ = run(plain, [1], windows(3), sent)
    np.testing.assert_allclose(run(engine, [1], windows(3), sent)[0], expected, atol=2e-6)


@pytest.mark.parametrize("slots", [0, 4], ids=["no arena", "an arena"])
def test_nothing_is_uploaded_while_a_graph_is_captured(
    make_avatar: MakeAvatar, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    """Binding an array allocates on the GPU and copies there: that would spoil the capture, and fail."""
    uploads: list[str] = []
    plainly = onnxruntime.IOBinding.bind_cpu_input

    def bind(self: onnxruntime.IOBinding, name: str, array: object) -> None:
        uploads.append(name)
        plainly(self, name, array)

    arena = CropArena(GPU, slots * CROP_BYTES) if slots else None
    engine = OnnxEngine(make_avatar(model=network_without_convolutions()), GPU, OnnxSection(), arena=arena)
    monkeypatch.setattr(onnxruntime.IOBinding, "bind_cpu_input", bind)
    with ThreadPoolExecutor(1) as other:
        with GATE.capture():
            running = other.submit(run, engine, [0], windows(1))
            with pytest.raises(TimeoutError):
                running.result(0.2)
            assert not uploads
        running.result(PATIENCE_S)
    assert uploads
