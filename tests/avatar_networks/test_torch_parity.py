"""The graphs against PyTorch, with modules written from the published table: the state dicts load strictly, the numbers agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from avatar_tools.networks.audio_encoder import AUDIO_ENCODER
from avatar_tools.networks.random_weights import random_weights
from avatar_tools.networks.unet import UNET
from inference_service.graphs.cpu_form import ONNX_RUNTIME, cpu_form

from ..published_networks import Unet, encoder, torch

pytestmark = [pytest.mark.slow, pytest.mark.torch]


def loaded(module: Any, weights: dict[str, Any]) -> Any:
    module.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in weights.items()}, strict=True)
    return module.eval()


def test_unet(run: Any, picture: Any, sound: Any) -> None:
    weights = random_weights(UNET, 8)
    module = loaded(Unet(), weights)
    with torch.inference_mode():
        expected = module(torch.from_numpy(picture), torch.from_numpy(sound)).numpy()

    plain = UNET.graph(weights)
    mouths = run(plain, input=picture, audio=sound)
    mouth = run(cpu_form(plain, ONNX_RUNTIME), input=picture[:1], audio=sound[:1])

    assert sum(parameter.numel() for parameter in module.parameters()) == 12_186_935
    assert len(module.state_dict()) == 556
    assert np.abs(mouths - expected).max() < 1e-5
    assert np.abs(mouth - expected[:1]).max() < 1e-5


def test_encoder(run: Any) -> None:
    weights = random_weights(AUDIO_ENCODER, 8)
    module = loaded(encoder(), weights)
    mel = np.random.default_rng(5).uniform(-4, 4, (16, 1, 80, 16)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(mel)).reshape(16, 512).numpy()

    assert sum(parameter.numel() for parameter in module.parameters()) == 2_812_672
    assert len(module.state_dict()) == 91
    assert np.abs(run(AUDIO_ENCODER.graph(weights), mel=mel) - expected).max() < 1e-4
