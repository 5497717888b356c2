"""Networks found among checkpoints, converted, never unpickled."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from avatar_kit.avatar import load_avatar
from avatar_tools.checkpoints import Converted
from avatar_tools.demo.build import ENCODER_PATH
from avatar_tools.importing.models import newest_checkpoint

from ..pickles import Trace
from .conftest import encoder, network


class Converter:
    """In place of the converter, which needs PyTorch and has its own tests: notes what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []

    def __call__(self, path: Path, *, kind: str) -> Converted:
        self.given.append((path.name, kind))
        made = network() if kind == "network" else encoder()
        return Converted(made.SerializeToString(), 12_186_935, 4.3e-4)


@pytest.fixture
def converter(monkeypatch) -> Converter:
    made = Converter()
    monkeypatch.setattr("avatar_tools.importing.models.convert_checkpoint", made)
    return made


TELLING = {
    "network": ["inc.inconv.0.conv.0.weight", "outc.conv.weight"],
    "audio_encoder": ["0.conv_block.0.weight", "12.conv_block.0.weight"],
}


def checkpoints(folder: Path, *names: str, kind: str = "network") -> None:
    """Files of the form that PyTorch wrote before 1.6, with the weights' names and no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [0, 1, {}, dict.fromkeys(TELLING[kind], 0)]
    for name in names:
        (folder / name).write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))


def test_the_newest_checkpoint_is_the_one_of_the_largest_number(run, layouts, converter: Converter) -> None:
    folder = layouts.research()
    place = layouts.root / "checkpoint" / "ada"
    (place / "net.onnx").unlink()
    checkpoints(place, "4.pth", "9.pth", "14.pth", "99.pth", "104.pth", "optimizer.pth")
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert converter.given == [("104.pth", "network")]
    assert "convert 104.pth to ONNX" in result.stdout
    assert "104.pth: converted to ONNX, 12,186,935 parameters, differs from PyTorch by at most 4.3e-04" in result.stdout


def test_only_files_named_by_a_number_count_as_numbered(tmp_path) -> None:
    for name in ["4.pth", "9.pth", "99.pth", "104.pth", "best.pth", "999.pth.tmp", "-5.pth", "0x200.pth", "99.txt"]:
        (tmp_path / name).touch()
    (tmp_path / "500.pth").mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / "104.pth"


def test_a_folder_that_does_not_tell_which_network_is_meant(run, layouts) -> None:
    folder = layouts.research()
    empty, several = layouts.root / "empty", layouts.root / "several"
    empty.mkdir()
    checkpoints(several, "best.pth", "last.pth")
    for place, says in [(empty, "empty has no network in it"), (several, "several has several networks (best.pth, last.pth)")]:
        result = run(folder, "--checkpoint", place)
        assert result.exit_code == 1
        assert says in result.stderr


def test_a_link_out_of_a_named_folder_is_refused(run, layouts, converter: Converter) -> None:
    folder, place = layouts.research(), layouts.root / "trained"
    checkpoints(layouts.root / "elsewhere", "1.pth")
    checkpoints(place, "4.pth")
    (place / "9.pth").symlink_to(place / "4.pth")
    assert run(folder, "--checkpoint", place).exit_code == 0
    assert converter.given == [("9.pth", "network")]
    (place / "99.pth").symlink_to(layouts.root / "elsewhere" / "1.pth")
    result = run(folder, "--checkpoint", place, "--replace")
    assert result.exit_code == 1
    assert "trained has 99.pth, a link that leads out of it" in result.stderr


def test_a_checkpoint_or_a_folder_of_them_may_be_named(run, layouts, converter: Converter) -> None:
    folder = layouts.research()
    checkpoints(layouts.root / "elsewhere", "1.pth", "2.pth")
    run(folder, "--checkpoint", layouts.root / "elsewhere")
    run(folder, "--checkpoint", layouts.root / "elsewhere" / "1.pth", "--replace")
    assert converter.given == [("2.pth", "network"), ("1.pth", "network")]


def test_the_trees_own_audio_encoder_is_converted_unless_one_is_shared(run, layouts, converter: Converter, models_root) -> None:
    checkpoints(layouts.root / "model" / "checkpoints", "audio_visual_encoder.pth", kind="audio_encoder")
    assert run(layouts.research()).exit_code == 0
    assert converter.given == [("audio_visual_encoder.pth", "audio_encoder")]
    assert load_avatar(models_root / "ada").audio_encoder_path is not None
    layouts.onnx(models_root / "audio_encoder.onnx", encoder())
    assert run(layouts.research(), "--replace").exit_code == 0
    assert load_avatar(models_root / "ada").audio_encoder_path is None


def test_the_trees_own_audio_encoder_comes_before_the_demos(run, layouts, converter: Converter, models_root) -> None:
    checkpoints(layouts.root / "model" / "checkpoints", "audio_visual_encoder.pth", kind="audio_encoder")
    layouts.onnx(models_root / "audio_encoder.onnx", onnx.load(ENCODER_PATH))
    assert run(layouts.research()).exit_code == 0
    assert load_avatar(models_root / "ada").audio_encoder_path is not None


def test_an_encoder_that_only_lies_nearby_may_fail(run, layouts, monkeypatch) -> None:
    nearby = layouts.root / "model" / "checkpoints"
    checkpoints(nearby, "audio_visual_encoder.pth")
    result = run(layouts.research(), "--dry-run")
    assert result.exit_code == 0, result.output
    assert "warning: audio_visual_encoder.pth holds a lip-sync network" in result.stdout
    monkeypatch.setitem(sys.modules, "torch", None)
    checkpoints(layouts.root / "model" / "checkpoints", "audio_visual_encoder.pth", kind="audio_encoder")
    result = run(layouts.research())
    assert result.exit_code == 0, result.output
    assert (
        "warning: the avatar has no audio encoder: audio_visual_encoder.pth: converting a checkpoint needs PyTorch"
        in result.stdout
    )


def test_which_of_several_networks_is_meant_must_be_said(refused, layouts, converter: Converter) -> None:
    folder = layouts.research()
    place = layouts.root / "checkpoint" / "ada"
    (place / "net.onnx").unlink()
    checkpoints(place, "best.pth", "last.pth")
    assert "checkpoint/ada has several networks (best.pth, last.pth): choose one with --checkpoint" in refused(folder)


def test_no_network_at_all(refused, layouts) -> None:
    folder = layouts.go()
    (folder / "checkpoint" / "model_best.onnx").unlink()
    assert "sanders has no network: name an .onnx or .pth file with --checkpoint" in refused(folder)
    checkpoints(layouts.root / "empty")
    assert "has no network in it, neither .onnx nor .pth" in refused(folder, "--checkpoint", layouts.root / "empty")
    (layouts.root / "net.txt").write_text("?")
    assert "net.txt is neither an ONNX file (.onnx) nor a PyTorch checkpoint" in refused(
        folder, "--checkpoint", layouts.root / "net.txt"
    )


def test_without_pytorch_a_checkpoint_is_refused_with_advice(refused, layouts, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    checkpoints(layouts.root / "nets", "9.pth")
    said = refused(layouts.go(), "--checkpoint", layouts.root / "nets")
    assert "9.pth: converting a checkpoint needs PyTorch: install the extra [import]" in said


def test_the_other_network_s_checkpoint_is_refused(refused, layouts, converter: Converter) -> None:
    checkpoints(layouts.root / "nets", "9.pth", kind="audio_encoder")
    said = refused(layouts.go(), "--checkpoint", layouts.root / "nets")
    assert "9.pth holds an audio encoder, where a lip-sync network is wanted" in said


@pytest.mark.parametrize("name", ["landmarks_2d.npy", "aud_ave.npy", "net.pth"])
@pytest.mark.parametrize("form", ["npy", "bare"])
def test_a_pickle_is_never_run(run, refused, layouts, tmp_path: Path, name: str, form: str) -> None:
    trace = tmp_path / "it ran"
    path = layouts.root / name
    folder = layouts.go()
    if form == "npy":
        np.save(path, np.array([Trace(trace)], object), allow_pickle=True)
        path = path if path.exists() else path.with_name(path.name + ".npy").rename(path)
    else:
        path.write_bytes(pickle.dumps({"model": Trace(trace)}))
    if name == "aud_ave.npy":
        path.rename(folder / name)
        said = run(folder).stdout  # which is imported without it
    else:
        said = refused(folder, "--checkpoint" if name.endswith("pth") else "--landmarks", path)
    assert not trace.exists()
    assert name in said
    pickle.loads(pickle.dumps(Trace(trace)))
    assert trace.exists(), "the bomb is a real one"
