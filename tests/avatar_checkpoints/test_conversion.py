"""Checkpoints as `torch.save` writes them, converted, and judged by PyTorch and ONNX Runtime."""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_io import encoder_io, network_io
from avatar_tools.checkpoints import Converted, convert_checkpoint
from avatar_tools.checkpoints import convert as conversion
from avatar_tools.checkpoints.files import read_checkpoint
from avatar_tools.networks.audio_encoder import AUDIO_ENCODER
from avatar_tools.networks.network import Network
from avatar_tools.networks.random_weights import random_weights
from avatar_tools.networks.unet import UNET
from avatar_tools.networks.weights import Weights

from ..published_networks import Unet, as_if_trained, nn, torch
from ..published_networks import encoder as published_encoder
from .conftest import WriteArchive

pytestmark = pytest.mark.torch

Tensors = dict[str, Any]


def tensors(weights: dict[str, Any]) -> Tensors:
    return collections.OrderedDict((key, torch.from_numpy(np.array(array))) for key, array in weights.items())


@pytest.fixture
def encoder() -> Tensors:
    return tensors(random_weights(AUDIO_ENCODER, 4))


@pytest.fixture(scope="module")
def unet() -> Tensors:
    return tensors(random_weights(UNET, 4))


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Converted]:
    """convert(content, kind=...) -> saved and converted"""

    def save_and_convert(content: Any, *, kind: Any = "audio_encoder", **options: Any) -> Converted:
        torch.save(content, tmp_path / "7.pth", **options)
        return convert_checkpoint(tmp_path / "7.pth", kind=kind)

    return save_and_convert


def session(converted: Converted) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(converted.onnx, providers=["CPUExecutionProvider"])


def prefixed(prefix: str, content: Tensors) -> Tensors:
    return {prefix + key: value for key, value in content.items()}


WRAPPINGS: dict[str, Callable[[Tensors], Any]] = {
    "plain": lambda content: content,
    "model": lambda content: {"model": content},
    "model_state_dict": lambda content: {"model_state_dict": content, "epoch": 7, "loss": 0.25},
    "state_dict": lambda content: {"state_dict": content, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "module.": lambda content: prefixed("module.", content),
    "module. twice": lambda content: prefixed("module.module.", content),
    "compiled and parallel": lambda content: prefixed("_orig_mod.module.", content),
    "in its holder": lambda content: prefixed("audio_encoder.", content),
    "all at once": lambda content: {"model": {"state_dict": prefixed("module.", content)}},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_every_wrapping(convert: Any, encoder: Tensors, wrap: Callable[[Tensors], Any]) -> None:
    converted = convert(wrap(encoder))

    assert converted.onnx == AUDIO_ENCODER.graph(random_weights(AUDIO_ENCODER, 4)).SerializeToString(deterministic=True)
    assert converted.parameters == 2_812_672
    assert 0 <= converted.largest_difference < 1e-4


@pytest.mark.slow
def test_the_network_converts_for_any_batch(convert: Any, unet: Tensors) -> None:
    converted = convert(unet, kind="network")

    assert (converted.parameters, network_io(onnx.load_from_string(converted.onnx)).batch) == (12_186_935, None)
    assert 0 < converted.largest_difference < 1e-4
    assert not [node for node in onnx.load_from_string(converted.onnx).graph.node if node.op_type == "BatchNormalization"]


def test_an_untrained_network_of_torchs_own_initialisation(convert: Any) -> None:
    torch.manual_seed(1)
    module = published_encoder().eval()
    converted = convert(module.state_dict())
    mel = np.random.default_rng(1).uniform(-4, 4, (5, 1, 80, 16)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(mel)).flatten(1).numpy()

    assert encoder_io(onnx.load_from_string(converted.onnx)).batch is None
    np.testing.assert_allclose(session(converted).run(None, {"mel": mel})[0], expected, atol=1e-4)


def test_files_of_before_1_6(convert: Any, encoder: Tensors) -> None:
    assert convert(encoder, _use_new_zipfile_serialization=False).largest_difference < 1e-4


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions(convert: Any, encoder: Tensors, kind: str) -> None:
    content = {key: value.to(getattr(torch, kind)) if value.is_floating_point() else value for key, value in encoder.items()}

    assert convert(content).largest_difference < 1e-4


def test_counters_may_be_missing(convert: Any, encoder: Tensors) -> None:
    content = {key: value for key, value in encoder.items() if not key.endswith("num_batches_tracked")}

    assert convert(content).parameters == 2_812_672


def test_weights_that_need_gradients(convert: Any, encoder: Tensors) -> None:
    content = {key: torch.nn.Parameter(value) if value.is_floating_point() else value for key, value in encoder.items()}

    assert convert(content).parameters == 2_812_672


def test_everything_that_does_not_fit_is_listed(convert: Any, encoder: Tensors) -> None:
    del encoder["3.conv_block.0.bias"]
    encoder["4.conv_block.0.weight"] = torch.zeros(64, 32, 3, 3)
    encoder["13.conv_block.0.bias"] = torch.zeros(512)

    with pytest.raises(BrokenAvatar) as caught:
        convert(encoder)

    assert sorted(caught.value.problems) == [
        "7.pth: 4.conv_block.0.weight: has the shape [64, 32, 3, 3], not [64, 64, 3, 3]",
        "7.pth: missing: 3.conv_block.0.bias",
        "7.pth: unknown: 13.conv_block.0.bias",
    ]


def test_a_long_list_is_shortened(convert: Any, encoder: Tensors) -> None:
    with pytest.raises(BrokenAvatar, match=r"and \d+ more like these") as caught:
        convert({f"backbone.{key}": value for key, value in encoder.items()})

    assert len(caught.value.problems) <= 11


def test_prefixes_must_be_those_of_all(convert: Any, encoder: Tensors) -> None:
    first, *others = encoder
    with pytest.raises(BrokenAvatar, match=r"missing: 0\.conv_block\.0\.weight"):
        convert({f"module.{first}": encoder[first]} | {key: encoder[key] for key in others})


def test_the_other_kind_is_named(convert: Any, encoder: Tensors, unet: Tensors) -> None:
    with pytest.raises(BrokenAvatar, match=r"7\.pth: holds an audio encoder, not a lip-sync network"):
        convert({"model": encoder}, kind="network")
    with pytest.raises(BrokenAvatar, match=r"7\.pth: holds a lip-sync network, not an audio encoder"):
        convert(prefixed("module.", unet))


def test_a_network_for_other_sound_is_named(convert: Any, unet: Tensors) -> None:
    other = unet | {"audio_model.conv1.conv.0.weight": torch.zeros(256, 128, 1, 1)}
    with pytest.raises(BrokenAvatar, match="only networks for 'ave' features can be served"):
        convert(other, kind="network")
    with pytest.raises(BrokenAvatar, match=r"missing: audio_model\.bn3\.bias"):
        convert({key: value for key, value in unet.items() if key != "audio_model.bn3.bias"}, kind="network")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.zeros(32, dtype=torch.complex64), "has numbers of type complex64"),
        (torch.zeros(32, dtype=torch.int8), "has numbers of type int8"),
        (torch.full((32,), torch.inf), "has values that are not finite"),
        (torch.zeros(32).to_sparse(), "is not a plain tensor"),
        (torch.zeros(1).expand(10**12), "numbers, more than"),
        ("text", "is not a tensor but of type str"),
        (None, "is not a tensor but of type NoneType"),
    ],
    ids=["complex", "integers", "infinite", "sparse", "four terabytes", "text", "nothing"],
)
def test_what_is_no_weight(convert: Any, encoder: Tensors, value: Any, sentence: str) -> None:
    with pytest.raises(BrokenAvatar, match=sentence):
        convert(encoder | {"0.conv_block.0.bias": value})


def holding_itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize("content", [{}, [1, 2], torch.zeros(3), {"model": {}}, holding_itself()], ids=repr)
def test_no_weights_at_all(convert: Any, content: Any) -> None:
    with pytest.raises(BrokenAvatar, match=r"holds no weights by name|is not a tensor but of type dict"):
        convert(content)


def test_a_whole_module_is_refused_with_what_to_save_instead(convert: Any) -> None:
    with pytest.raises(BrokenAvatar, match=r"asks for 'torch\.nn\.modules\.linear\.Linear'.* torch\.save\(network\.state_dict"):
        convert(torch.nn.Linear(2, 2))


def test_code_that_the_look_from_outside_misses_is_stopped_by_the_restricted_reader(
    tmp_path: Path, write_archive: WriteArchive
) -> None:
    mark = tmp_path / "it-ran"
    command = f"touch {mark}".encode()
    # `posix` and `system` are remembered, dropped, and then fetched by their numbers.
    function = b"\x8c\x05posix\x940" + b"\x8c\x06system\x940" + b"h\x00h\x01\x93"
    data = b"\x80\x04" + function + b"\x8c" + bytes([len(command)]) + command + b"\x85R."
    path = write_archive("evil.pth", data, members=[("archive/version", b"3\n"), ("archive/byteorder", b"little")])
    assert read_checkpoint(path) == path.read_bytes()

    with pytest.raises(BrokenAvatar, match=r"^evil\.pth: "):
        convert_checkpoint(path, kind="network")
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists()  # the file would have done it


def test_a_conversion_that_computes_something_else_is_refused(
    convert: Any, encoder: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Network):
        """Has a graph of other weights than it is asked for."""

        def graph(self, weights: Weights) -> onnx.ModelProto:
            return super().graph(random_weights(self, 5))

    other = Other(**{field.name: getattr(AUDIO_ENCODER, field.name) for field in fields(Network)})
    monkeypatch.setitem(conversion.NETWORKS, "audio_encoder", other)
    with pytest.raises(BrokenAvatar, match=r"7\.pth: an audio encoder whose ONNX form differs from PyTorch's by [0-9.]+, more"):
        convert(encoder)


def test_values_that_are_not_numbers_are_refused(convert: Any, encoder: Tensors) -> None:
    encoder["0.conv_block.1.weight"] *= 1e38
    with pytest.raises(BrokenAvatar, match=r"differs from PyTorch's by nan"):
        convert(encoder)


@pytest.mark.slow
def test_a_sharp_network_is_not_refused_for_its_rounding(convert: Any) -> None:
    """PyTorch in single precision is itself more than a thousandth away from PyTorch in double precision."""
    generator = torch.Generator().manual_seed(4)
    smooth = nn.functional.interpolate(torch.rand(2, 6, 10, 10, generator=generator), (320, 320), mode="bilinear")
    sound = torch.randn(2, 32, 16, 16, generator=generator).relu() * 3

    converted = convert(as_if_trained(Unet, smooth, sound, seed=4).state_dict(), kind="network")

    assert conversion.MAX_DIFFERENCE < converted.largest_difference < 1 / 100
