"""ONNX networks: bound by shape, and freed from a fixed batch only where that is safe."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from avatar_kit.avatar import load_avatar
from avatar_kit.onnx_io import encoder_io, network_io
from avatar_tools.importing.batch_freeing import freed

from .conftest import encoder, network


def inputs(count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(8)
    face = generator.uniform(0, 1, (count, 6, 320, 320)).astype(np.float32)
    return {"face": face, "sound": generator.uniform(0, 10, (count, 32, 16, 16)).astype(np.float32)}


def session(model: Path | bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("reshape", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_freed_and_gives_the_same(run, layouts, models_root: Path, batch: int, reshape: bool) -> None:
    folder = layouts.go()
    onnx.save(network(batch, reshape=reshape), folder / "checkpoint" / "model_best.onnx")
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert f"took batches of {batch} only, now takes any" in result.stdout
    path = load_avatar(models_root / "ada").network_path
    assert network_io(path).batch is None
    wanted = session(folder / "checkpoint" / "model_best.onnx").run(None, inputs(batch))[0]
    assert np.array_equal(session(path).run(None, inputs(batch))[0], wanted)
    assert session(path).run(None, inputs(7))[0].shape == (7, 3, 320, 320)


def test_a_network_that_mixes_its_batch_keeps_it(run, layouts, models_root: Path) -> None:
    folder = layouts.go()
    path = folder / "checkpoint" / "model_best.onnx"
    onnx.save(network(2, crosswise=True), path)
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert "kept as it is, takes batches of 2 only" in result.stdout
    assert load_avatar(models_root / "ada").network_path.read_bytes() == path.read_bytes()


def test_an_encoder_is_freed_too() -> None:
    opened = freed(encoder(1), encoder_io)
    assert opened is not None
    assert session(opened.SerializeToString()).run(None, {"mel": np.zeros((5, 1, 80, 16), np.float32)})[0].shape == (5, 512)


def test_without_onnxruntime_a_fixed_batch_is_kept(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert freed(network(1), network_io) is None


def test_an_open_batch_is_copied_byte_for_byte(run, layouts, models_root: Path) -> None:
    run(layouts.go())
    assert load_avatar(models_root / "ada").network_path.read_bytes() == network().SerializeToString()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (network(audio=(32, 32, 32)), "a network for hubert audio features"),
        (network(audio=(256, 16, 32)), "a network for wenet audio features"),
        (network(audio=(16, 16, 32)), "do not fit; expected [N, 6, 320, 320] float32"),
        (encoder(), "its inputs 'mel' [?, 1, 80, 16] do not fit"),
    ],
    ids=["hubert", "wenet", "sizes", "the encoder"],
)
def test_a_network_of_another_shape_is_refused(refused, layouts, made: onnx.ModelProto, says: str) -> None:
    said = refused(layouts.go(), "--checkpoint", layouts.onnx(layouts.root / "other.onnx", made))
    assert "other.onnx: " in said
    assert says in said


def test_an_encoder_of_another_shape_is_refused(refused, layouts) -> None:
    said = refused(layouts.go(), "--audio-encoder", layouts.onnx(layouts.root / "other.onnx", network()))
    assert "other.onnx: its inputs" in said
    assert "expected [N, 1, 80, 16] float32" in said


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a network", b"\xff" * 4000], ids=["empty", "text", "noise"])
def test_a_file_that_is_no_network_is_refused(refused, layouts, content: bytes) -> None:
    folder = layouts.go()
    (folder / "checkpoint" / "model_best.onnx").write_bytes(content)
    assert "model_best.onnx is " in refused(folder)


@pytest.mark.parametrize("location", ["weights.bin", "model_best.onnx.data"])
def test_weights_in_a_file_beside_it_come_along(run, layouts, models_root: Path, location: str) -> None:
    folder = layouts.go()
    path = folder / "checkpoint" / "model_best.onnx"
    onnx.save_model(network(reshape=True), path, save_as_external_data=True, location=location, size_threshold=0)
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert "model_best.onnx: put into one file with its weights, takes any batch" in result.output
    assert onnx.load(models_root / "ada" / "network.onnx", load_external_data=False).graph == network(reshape=True).graph


@pytest.mark.parametrize("where", ["a weight", "a constant", "a branch"])
def test_no_tensor_anywhere_may_lie_in_another_file(refused, layouts, where: str) -> None:
    folder = layouts.go()
    (folder / "secret").write_bytes(bytes(4))
    made = network()
    elsewhere = onnx.TensorProto(name="elsewhere", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    elsewhere.external_data.add(key="location", value="../secret")
    constant = onnx.helper.make_node("Constant", [], ["taken"], value=elsewhere)
    if where == "a weight":
        made.graph.initializer.append(elsewhere)
    elif where == "a constant":
        made.graph.node.append(constant)
    else:
        branch = onnx.helper.make_graph([constant], "branch", [], [onnx.helper.make_empty_tensor_value_info("taken")])
        made.graph.node.append(onnx.helper.make_node("If", ["mouth"], ["any"], then_branch=branch, else_branch=branch))
    onnx.save(made, folder / "checkpoint" / "model_best.onnx")
    assert "model_best.onnx keeps weights in ../secret, which is not a path inside" in refused(folder)


@pytest.mark.parametrize("batch", [1, "N"])
def test_a_network_that_onnxruntime_can_not_load_is_refused(refused, layouts, batch: int | str) -> None:
    folder = layouts.go()
    made = network(batch)
    made.graph.node[0].op_type = "Nonsense"
    onnx.save(made, folder / "checkpoint" / "model_best.onnx")
    assert "model_best.onnx: ONNX Runtime cannot load it: " in refused(folder)


def test_without_onnxruntime_a_network_is_taken_on_trust(run, layouts, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run(layouts.go())
    assert result.exit_code == 0, result.output
    assert "model_best.onnx: kept as it is" in result.stdout
