"""The engine and precision that an avatar gets: by the configuration, the processor and its own network, never by the clock."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_tools.networks.audio_encoder import AUDIO_ENCODER
from avatar_tools.networks.random_weights import random_weights
from inference_service.engines import openvino_models
from inference_service.engines.devices import CUDA, Device, DeviceError, find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.models.choosing import IN_FLOAT32, EngineChoice, choose_engine
from inference_service.models.model import LoadedModel, ModelLoader
from inference_service.settings import EngineName, GpuSection, OnnxSection, PrecisionName

from ..end_to_end.avatars import exact_network
from .conftest import MIX, MakeAvatar, network

CPU = find_devices(GpuSection(enabled=False), OnnxSection())
IN_BFLOAT16 = EngineChoice(bfloat16=True)
ALWAYS_IN_BFLOAT16 = EngineChoice(bfloat16=True, bfloat16_always=True)
HAS_BFLOAT16 = openvino_models.is_installed() and openvino_models.processor_has_bfloat16()
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="no bfloat16 here")


def forget_openvino() -> None:
    openvino_models.core.cache_clear()
    openvino_models._openvino.cache_clear()


def load(avatar: Avatar, root: Path, choice: EngineChoice) -> LoadedModel:
    loader = ModelLoader(OnnxSection(intra_op_threads=1), choice=choice)
    return loader.load(avatar, AvatarCatalog(root / "models").audio_encoder_path(avatar), CPU)


def coarse_network() -> onnx.ModelProto:
    """The small network with 100 added and taken away again, which leaves two of the eight bits that bfloat16 has."""
    model = network()
    first = model.graph.node[0]
    mixed, first.output[0] = first.output[0], "raised"
    first.input.append("much")
    model.graph.node.insert(1, helper.make_node("Conv", ["raised", "same", "less"], [mixed]))
    for name, value in {"much": [100] * 3, "less": [-100] * 3, "same": np.eye(3).reshape(3, 3, 1, 1)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return model


@needs_bfloat16
def test_a_network_that_stands_it_runs_in_bfloat16(
    make_avatar: MakeAvatar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = load(make_avatar("her"), tmp_path, IN_BFLOAT16)
    assert model.engines[0].arithmetic == IN_BFLOAT16.numerics
    assert model.numerics.startswith(f"{IN_BFLOAT16.numerics}/")
    assert model.psnr_db is not None
    assert model.psnr_db >= 45
    assert f"avatar her runs in bfloat16: {model.psnr_db:.1f} dB from float32" in caplog.text


@needs_bfloat16
def test_a_network_that_bfloat16_would_change_runs_in_float32(
    make_avatar: MakeAvatar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    avatar = make_avatar("her", model=coarse_network())
    model = load(avatar, tmp_path, IN_BFLOAT16)
    assert model.engines[0].arithmetic == IN_FLOAT32.numerics
    assert model.psnr_db is None
    assert "avatar her runs in float32, as bfloat16 would be seen" in caplog.text
    forced = load(avatar, tmp_path, ALWAYS_IN_BFLOAT16)
    assert forced.engines[0].arithmetic == IN_BFLOAT16.numerics
    assert forced.psnr_db is not None
    assert forced.psnr_db < 45


def faint_network(factor: float) -> onnx.ModelProto:
    """The small network whose first layer makes values that are so much smaller, and whose second makes up for it."""
    model = network()
    first = model.graph.node[0]
    mixed, first.output[0] = first.output[0], "faint"
    model.graph.node.insert(1, helper.make_node("Conv", ["faint", "restoring"], [mixed]))
    restoring = (np.eye(3, dtype=np.float32) / np.float32(factor)).reshape(3, 3, 1, 1)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(MIX * np.float32(factor), "mix"))
    model.graph.initializer.append(numpy_helper.from_array(restoring, "restoring"))
    return model


@pytest.mark.parametrize("share", [False, True], ids=["a session of its own", "shared"])
@pytest.mark.parametrize(("factor", "is_float16"), [(0.5, True), (1e-7, False)], ids=["fine", "coarse"])
def test_a_network_runs_in_float16_where_nobody_would_see_it(
    make_avatar: MakeAvatar, tmp_path: Path, caplog: pytest.LogCaptureFixture, factor: float, is_float16: bool, share: bool
) -> None:
    """On the CPU here, where only the weights are in float16. Its smallest number is 6e-8."""
    caplog.set_level(logging.INFO)
    loader = ModelLoader(OnnxSection(intra_op_threads=1, share_sessions=share), choice=EngineChoice(float16=True))
    avatar = make_avatar("her", model=faint_network(factor))
    model = loader.load(avatar, AvatarCatalog(tmp_path / "models").audio_encoder_path(avatar), CPU)
    assert model.engines[0].arithmetic == EngineChoice(float16=is_float16).numerics
    if is_float16:
        assert model.psnr_db is not None
        assert model.psnr_db >= 50
        assert f"avatar her runs in float16: {model.psnr_db:.1f} dB from float32" in caplog.text
    else:
        assert model.psnr_db is None
        assert "avatar her runs in float32, as float16 would be seen: " in caplog.text


def test_float16_is_for_gpus() -> None:
    gpu = Device(0, "a GPU", ((CUDA, {}),))
    assert choose_engine("auto", "float16", [gpu]) == EngineChoice(float16=True)
    with pytest.raises(DeviceError, match="float16 is for GPUs"):
        choose_engine("auto", "float16", CPU)


def test_a_network_without_work_runs_in_float32(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    model = load(make_avatar(model=exact_network()), tmp_path, IN_BFLOAT16)
    assert model.engines[0].arithmetic == IN_FLOAT32.numerics


@needs_bfloat16
def test_a_network_that_openvino_cannot_run_runs_in_float32(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    chosen = network()
    body = helper.make_graph(
        [helper.make_node("Identity", ["mouth_made"], ["kept"])],
        "either",
        [],
        [helper.make_tensor_value_info("kept", onnx.TensorProto.FLOAT, None)],
    )
    chosen.graph.node[-1].output[0] = "mouth_made"
    chosen.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    chosen.graph.node.append(helper.make_node("If", ["yes"], ["mouth"], then_branch=body, else_branch=body))
    model = load(make_avatar(model=chosen), tmp_path, IN_BFLOAT16)
    assert model.engines[0].arithmetic == IN_FLOAT32.numerics


@needs_bfloat16
def test_the_audio_encoder_runs_in_bfloat16_with_the_same_bytes_in_any_number_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(AUDIO_ENCODER.graph(random_weights(AUDIO_ENCODER, 3)).SerializeToString())
    choices = ALWAYS_IN_BFLOAT16, IN_BFLOAT16, IN_FLOAT32
    quick, auto, exact = (
        ModelLoader(OnnxSection(intra_op_threads=1), choice=choice).features(path, CPU[0]) for choice in choices
    )
    sound = np.random.default_rng(4).normal(0, 0.1, 16000).astype(np.float32)
    rows = quick.rows(sound, first_row=0, row_count=20)
    apart = [quick.rows(sound, first_row=row, row_count=count) for row, count in ((0, 1), (1, 4), (5, 15))]
    np.testing.assert_array_equal(np.concatenate(apart), rows)
    expected = exact.rows(sound, first_row=0, row_count=20)
    assert 0 < np.square(rows - expected).sum() < np.square(expected).sum() / 1000
    np.testing.assert_array_equal(auto.rows(sound, first_row=0, row_count=20), expected)  # avatars share it, also sharp ones


@pytest.mark.parametrize("choice", [IN_FLOAT32, pytest.param(IN_BFLOAT16, marks=needs_bfloat16)], ids=["float32", "bfloat16"])
def test_equal_numerics_give_equal_bytes(make_avatar: MakeAvatar, tmp_path: Path, choice: EngineChoice) -> None:
    """Mouths of two loaders, as two replicas have, in batches with other neighbours."""
    avatar = make_avatar()
    one, other = (load(avatar, tmp_path, choice) for _ in range(2))
    assert one.numerics == other.numerics
    windows = np.random.default_rng(3).uniform(0, 4, (4, 16, 512)).astype(np.float32)

    def mouths(model: LoadedModel, frames: list[int]) -> list[bytes]:
        engine = model.engines[0]
        engine.bank.ensure(frames)
        batch = EngineInput(windows[frames], np.array(frames), NO_PICTURES, want_float=False, want_uint8=True)
        made = engine.run(batch).mouths_uint8
        assert made is not None
        return [mouth.tobytes() for mouth in made]

    together = mouths(one, [0, 1, 2, 3])
    assert mouths(other, [3, 2, 1, 0])[::-1] == together
    assert [mouths(other, [frame])[0] for frame in range(4)] == together


def test_other_weights_have_other_numerics(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    one, other = make_avatar("one"), make_avatar("other", model=network(scale=0.5))
    assert load(one, tmp_path, IN_FLOAT32).numerics != load(other, tmp_path, IN_FLOAT32).numerics


@pytest.mark.parametrize(
    ("engine", "precision", "told"),
    [
        ("onnxruntime", "bfloat16", "ONNX Runtime has no bfloat16"),
        ("openvino", "auto", "OpenVINO is not installed"),
        ("openvino", "float32", "OpenVINO is not installed"),
        ("auto", "bfloat16", "OpenVINO is not installed"),
    ],
)
def test_what_cannot_be_had_is_an_error_at_the_start(
    monkeypatch: pytest.MonkeyPatch, engine: EngineName, precision: PrecisionName, told: str
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(openvino_models, "processor_has_bfloat16", lambda: True)
    forget_openvino()
    with pytest.raises(DeviceError, match=told):
        choose_engine(engine, precision, CPU)
    forget_openvino()


def test_bfloat16_on_a_processor_without_it_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_models, "processor_has_bfloat16", lambda: False)
    with pytest.raises(DeviceError, match="this processor has no instructions for it"):
        choose_engine("auto", "bfloat16", CPU)
    assert choose_engine("auto", "auto", CPU) == IN_FLOAT32


@pytest.mark.parametrize(("engine", "precision"), [("openvino", "auto"), ("auto", "bfloat16")])
def test_what_is_for_the_cpu_is_an_error_on_a_gpu(engine: EngineName, precision: PrecisionName) -> None:
    gpu = Device(0, "a GPU that is not there", ((CUDA, {}),))
    with pytest.raises(DeviceError, match="is for the CPU alone"):
        choose_engine(engine, precision, [gpu])
    assert choose_engine("auto", "auto", [gpu]) == IN_FLOAT32


def test_openvino_that_is_missing_is_told_and_replaced(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(openvino_models, "processor_has_bfloat16", lambda: True)
    monkeypatch.setattr(openvino_models, "is_installed", lambda: False)
    choice = choose_engine("auto", "auto", CPU)
    assert (choice.bfloat16, choice.numerics) == (False, IN_FLOAT32.numerics)
    assert "OpenVINO, which would use it, is not installed (extra [cpu]): networks run in ONNX Runtime, in float32" in caplog.text


@needs_bfloat16
def test_openvino_that_does_not_load_is_told_and_replaced(
    make_avatar: MakeAvatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    avatar = make_avatar("her")
    monkeypatch.setitem(sys.modules, "openvino", None)
    forget_openvino()
    model = load(avatar, tmp_path, IN_BFLOAT16)
    forget_openvino()
    assert model.engines[0].arithmetic == IN_FLOAT32.numerics
    assert "avatar her runs in float32, as it cannot run in bfloat16: OpenVINO is not installed" in caplog.text
