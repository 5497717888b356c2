"""ONNX files as PyTorch's exporter writes them, with a batch of one in their every end, opened to any batch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from avatar_kit.onnx_io import encoder_io, network_io
from avatar_tools.importing.batch_freeing import freed

from ..published_networks import Unet, as_if_trained, encoder, nn, torch

pytestmark = [pytest.mark.torch, pytest.mark.slow]


class Sized(Unet):
    """Enlarges to a size that it works out, not by a factor: the exporter writes more nodes for that."""

    def twice(self, y: Any) -> Any:
        return nn.functional.interpolate(y, size=(2 * y.shape[2], 2 * y.shape[3]), mode="bilinear", align_corners=True)


class Encoder(nn.Module):
    def __init__(self, ending: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layers, self.ending = encoder(), ending

    def forward(self, mel: Any) -> Any:
        return self.ending(self.layers(mel))


def exported(module: Any, *inputs: Any, opset: int = 17) -> onnx.ModelProto:
    """A batch of one, and nothing said of other sizes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that most files come from is no longer the newest
        torch.onnx.export(module, inputs, file, dynamo=False, opset_version=opset)
    return onnx.load_from_string(file.getvalue())


def run(model: onnx.ModelProto, *inputs: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [end.name for end in session.get_inputs()]
    return session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})[0]


@dataclass(frozen=True)
class Trained:
    """Inputs, weights that fit them, and PyTorch's outputs."""

    pictures: Any
    sounds: Any
    weights: dict[str, Any]
    mouths: np.ndarray


@pytest.fixture(scope="module")
def trained() -> Trained:
    generator = torch.Generator().manual_seed(2)
    pictures = nn.functional.interpolate(torch.rand(3, 6, 10, 10, generator=generator), (320, 320), mode="bilinear")
    sounds = torch.randn(3, 32, 16, 16, generator=generator).relu() * 3
    module = as_if_trained(Unet, pictures, sounds, seed=1)
    with torch.inference_mode():
        mouths = module(pictures, sounds).numpy()
    return Trained(pictures, sounds, module.state_dict(), mouths)


@pytest.mark.parametrize(("make", "opset"), [(Unet, 11), (Unet, 17), (Sized, 17)], ids=["opset 11", "by a factor", "by size"])
def test_networks(trained: Trained, make: type[Unet], opset: int) -> None:
    module = make().eval()
    module.load_state_dict(trained.weights)
    model = exported(module, trained.pictures[:1], trained.sounds[:1], opset=opset)
    assert network_io(model).batch == 1

    opened = freed(model, network_io)

    assert opened is not None
    assert network_io(opened).batch is None
    assert np.abs(run(opened, trained.pictures, trained.sounds) - trained.mouths).max() < 1 / 255


@pytest.mark.parametrize(
    "ending",
    [lambda x: x.view(1, 512), lambda x: x.squeeze(2).squeeze(2), lambda x: x.flatten(1)],
    ids=["view", "squeeze", "flatten"],
)
def test_encoders(ending: Callable[[Any], Any]) -> None:
    mel = torch.rand(5, 1, 80, 16, generator=torch.Generator().manual_seed(3)) * 8 - 4
    module = Encoder(ending).eval()
    model = exported(module, mel[:1])
    assert encoder_io(model).batch == 1

    opened = freed(model, encoder_io)

    assert opened is not None
    with torch.inference_mode():
        expected = torch.cat([module(one[None]) for one in mel]).numpy()
    np.testing.assert_allclose(run(opened, mel), expected, atol=1e-4)
