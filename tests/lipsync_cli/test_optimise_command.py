"""`lipsync avatar optimise`: variants in fewer bits are made, measured, served and left again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from avatar_kit.avatar import load_avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_tools.variants import serve_network, variant_path
from avatar_tools.verify import verify_avatar
from inference_service.engines.devices import find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.models.choosing import IN_FLOAT32
from inference_service.models.model import ModelLoader
from inference_service.models.opening import worst_psnr_db
from inference_service.settings import GpuSection, OnnxSection
from lipsync_cli import optimising
from lipsync_cli.optimising import is_better
from monolithic_service.network_bench import LEAST_DB, Way

from ..end_to_end.avatars import slow_network
from ..inference_service.conftest import MakeAvatar, hearing_network, network

NONE_GAINS = "no convolution that can be in int8 has more weights than values to read, so none would gain"


def hearing_joined_sound() -> onnx.ModelProto:
    """A network whose convolution reads a concatenation."""
    model = hearing_network([0.05])
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    convolution.input[0] = "joined"
    halves = [helper.make_node("Relu", ["sound"], ["positive"]), helper.make_node("Split", ["positive"], ["a", "b"], axis=1)]
    nodes = [*halves, helper.make_node("Concat", ["b", "a"], ["joined"], axis=1), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def mouths(root: Path) -> np.ndarray:
    """The mouths of three frames, as the service makes them of whatever network is served."""
    avatar = load_avatar(root)
    device = find_devices(GpuSection(enabled=False), OnnxSection())[0]
    encoder = AvatarCatalog(root.parent).audio_encoder_path(avatar)
    engine = ModelLoader(OnnxSection(intra_op_threads=1), choice=IN_FLOAT32).load(avatar, encoder, [device]).engines[0]
    engine.bank.ensure([0, 1, 2])
    windows = np.random.default_rng(2).uniform(0, 1, (3, 16, 512)).astype(np.float32)
    output = engine.run(EngineInput(windows, np.arange(3), NO_PICTURES, want_float=True, want_uint8=False))
    assert output.mouths_float is not None
    return output.mouths_float


@pytest.mark.parametrize(
    ("precision", "operator", "tolerance"),
    [("int8", "QuantizeLinear", 0.01), ("float16", "Cast", 0.001)],
    ids=["int8", "float16"],
)
def test_a_variant_is_made_measured_served_and_left_again(
    run, make_avatar: MakeAvatar, precision: str, operator: str, tolerance: float
) -> None:
    avatar = make_avatar("her", model=hearing_network([0.05]))
    before, exact = (avatar.root / "avatar.yaml").read_bytes(), mouths(avatar.root)
    options = ("her", "--models-root", avatar.root.parent)
    done = run("avatar", "optimise", *options, "--precision", precision)
    assert done.exit_code == 0, done.output
    for told in ("float32", "served now", precision, "inf dB", f"network.{precision}.onnx: written"):
        assert told in done.stdout
    assert (avatar.root / "avatar.yaml").read_bytes() == before
    variant = variant_path(avatar.root, precision)
    assert operator in {node.op_type for node in onnx.load(variant).graph.node}

    again = run("avatar", "optimise", *options, "--precision", precision)
    assert f"network.{precision}.onnx: kept" in again.stdout, "the same is not closer"

    serve_network(avatar, variant)
    assert load_avatar(avatar.root).network_path == variant
    assert verify_avatar(avatar.root).ok
    assert 0 < np.abs(mouths(avatar.root) - exact).mean() < tolerance

    assert run("avatar", "optimise", *options, "--precision", "float32").exit_code == 0
    assert load_avatar(avatar.root).network_path == avatar.network_path
    np.testing.assert_array_equal(mouths(avatar.root), exact)


def test_a_variant_that_would_be_seen_is_not_served(run, make_avatar: MakeAvatar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimising, "LEAST_DB", 200)
    avatar = make_avatar("her", model=hearing_network([0.05]))
    done = run("avatar", "optimise", "her", "--models-root", avatar.root.parent, "--precision", "int8", "--use")
    assert done.exit_code == 1
    assert "not served: it is " in done.stdout
    assert load_avatar(avatar.root).network_path == avatar.network_path


def test_only_convolutions_are_in_int8_that_cannot_be_seen(run, make_avatar: MakeAvatar) -> None:
    avatar = make_avatar("her", model=hearing_network([8, 0.05]))
    exact = mouths(avatar.root)
    done = run("avatar", "optimise", "her", "--models-root", avatar.root.parent, "--precision", "int8")
    assert done.exit_code == 0, done.output
    variant = variant_path(avatar.root, "int8")
    nodes = onnx.load(variant).graph.node
    quantised = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert [set(node.input[:2]) <= quantised for node in convolutions] == [False, True]
    serve_network(avatar, variant)
    assert worst_psnr_db(mouths(avatar.root), exact) >= LEAST_DB


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (network(), NONE_GAINS),
        (hearing_joined_sound(), NONE_GAINS),
        (hearing_network([8]), "each convolution that would gain would be seen in int8"),
    ],
    ids=["nothing gains", "behind a concatenation", "all would be seen"],
)
def test_a_network_without_such_convolutions_stays_as_it_is(
    run, make_avatar: MakeAvatar, model: onnx.ModelProto, reason: str
) -> None:
    avatar = make_avatar("her", model=model)
    done = run("avatar", "optimise", "her", "--models-root", avatar.root.parent, "--precision", "int8", "--use")
    assert done.exit_code == 1
    assert f"network.onnx cannot be converted to int8: {reason}" in " ".join(done.output.split())
    assert not variant_path(avatar.root, "int8").exists()


@pytest.mark.parametrize(
    ("psnr_db", "seconds", "better"), [(41, 1.0, True), (41, 0.9, True), (41, 1.1, False), (40, 0.5, False), (39, 0.5, False)]
)
def test_another_variant_must_be_closer_and_not_slower(psnr_db: float, seconds: float, better: bool) -> None:
    former = Way("int8", "", [1.0, 1.0, 1.0], 40)
    assert is_better(Way("int8", "", [seconds, seconds, 9.0], psnr_db), former) == better


def test_a_variant_that_is_close_and_quicker_than_what_is_served_takes_its_place(run, make_avatar: MakeAvatar) -> None:
    """The network that is served here takes many times as long as any variant, so that no noise of the machine can decide."""
    avatar = make_avatar("her")
    slow = variant_path(avatar.root, "int8")
    onnx.save(slow_network(layers=4), slow)
    serve_network(avatar, slow)
    done = run("avatar", "optimise", "her", "--models-root", avatar.root.parent, "--precision", "float16", "--use")
    assert done.exit_code == 0, done.output
    assert "network.float16.onnx: written, and served from now on; --precision float32 goes back" in " ".join(done.stdout.split())
    assert load_avatar(avatar.root).network_path == variant_path(avatar.root, "float16")
    assert verify_avatar(avatar.root).ok
