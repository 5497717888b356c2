"""An engine as it is on a GPU, with graphs, sizes of runs, streams and an arena: the mouths are the plain ones.

On the CPU, where nothing is captured, and on a GPU where there is one.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from avatar_kit.errors import BrokenAvatar
from inference_service.engines import network_sessions
from inference_service.engines.capturing import GATE
from inference_service.engines.crop_arena import CROP_BYTES, CropArena
from inference_service.engines.devices import find_devices
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import GpuSection, OnnxSection

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


@pytest.mark.parametrize("is_real", [False, pytest.param(True, marks=pytest.mark.gpu)], ids=["played", "real"])
@pytest.mark.parametrize("slots", [0, 4, 32], ids=["no arena", "a small arena", "an arena"])
@pytest.mark.parametrize("reference", [None, 3])
def test_mouths_are_the_plain_ones(make_avatar: MakeAvatar, slots: int, reference: int | None, *, is_real: bool) -> None:
    device, tolerance = (find_devices(GpuSection(enabled=True), OnnxSection())[0], 1e-5) if is_real else (GPU, 2e-6)
    options = OnnxSection(intra_op_threads=1, cuda_graphs=True, batch_buckets=(1, 2), cuda_streams_per_worker=2)
    arena = CropArena(device, slots * CROP_BYTES) if slots else None
    avatar = make_avatar(model=network_without_convolutions(), reference_frame=reference)
    engine = OnnxEngine(avatar, device, options, max_batch=4, arena=arena, shared=SharedSessions(options))
    engine.warm_up()
    assert engine.run_sizes[-1] == 4
    assert engine.run_sizes == (1, 2, 4) or is_real
    plain = on_cpu(avatar)
    sent = np.random.default_rng(3).uniform(0, 1, (2, 6, 320, 320)).astype(np.float32)
    for turn, frames in enumerate([[0], [4, 2], [1, 3, 0], [2, 2, 4, 1, 0, 3, 1]]):
        sound = windows(len(frames), turn)
        expected, wanted = run(plain, frames, sound)
        floats, output = run(engine, frames, sound)
        np.testing.assert_allclose(floats, expected, atol=tolerance)
        assert output.finite.all()
        assert wanted.mouths_uint8 is not None
        assert output.mouths_uint8 is not None
        assert np.abs(output.mouths_uint8.astype(int) - wanted.mouths_uint8).max() <= 1
    expected, _ = run(plain, [1], windows(3), sent)
    np.testing.assert_allclose(run(engine, [1], windows(3), sent)[0], expected, atol=tolerance)


def test_each_session_runs_twice_before_requests_come(make_avatar: MakeAvatar, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime plans the memory of a size of runs by what the first one took, and takes that in the second."""
    runs = Counter[int]()
    plainly = onnxruntime.InferenceSession.run_with_iobinding

    def counted(self: onnxruntime.InferenceSession, *arguments: Any) -> None:
        runs[id(self)] += 1
        plainly(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", counted)
    options = OnnxSection(intra_op_threads=1, cuda_streams_per_worker=2)
    OnnxEngine(make_avatar(model=network_without_convolutions()), GPU, options).warm_up()
    assert [*runs.values()] == [2, 2]


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


def test_a_network_that_cannot_be_captured_runs_without_graphs(
    make_avatar: MakeAvatar, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """ONNX Runtime refuses to capture loops, which only its CUDA provider can show."""
    plainly = network_sessions.open_session

    def opened(*arguments: Any, captures: bool = False, **named: Any) -> onnxruntime.InferenceSession:
        if captures:
            raise BrokenAvatar(f"{named['name']}: ONNX Runtime refuses it: the model has control flow nodes")
        return plainly(*arguments, **named)

    monkeypatch.setattr(network_sessions, "open_session", opened)
    avatar = make_avatar(model=network_without_convolutions())
    engine = OnnxEngine(avatar, GPU, OnnxSection(cuda_graphs=True), max_batch=4)
    engine.warm_up()
    np.testing.assert_allclose(run(engine, [1, 3], windows(2))[0], run(on_cpu(avatar), [1, 3], windows(2))[0], atol=2e-6)
    assert "runs without captured graphs (onnx.cuda_graphs): network.onnx: ONNX Runtime refuses it" in caplog.text
