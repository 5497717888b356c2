"""The graphs compute what the published description says: judged by numpy in float64, step by step, without folding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from avatar_kit.onnx_io import encoder_io, network_io
from avatar_tools.networks.audio_encoder import AUDIO_ENCODER
from avatar_tools.networks.random_weights import random_weights
from avatar_tools.networks.unet import UNET
from inference_service.graphs.cpu_form import ONNX_RUNTIME, OPENVINO, Form, cpu_form

from .conftest import with_batch

Array = NDArray[np.float32]
SEED = 3


@pytest.fixture(scope="module")
def unet() -> onnx.ModelProto:
    return UNET.graph(random_weights(UNET, SEED))


@pytest.fixture(scope="module")
def expected(reference: Any, picture: Array, sound: Array) -> Array:
    """[3, 320, 320] for the first item"""
    return np.asarray(reference(random_weights(UNET, SEED)).unet(picture[0], sound[0]))


def test_the_unet_is_the_published_one(run: Any, unet: onnx.ModelProto, picture: Array, sound: Array, expected: Array) -> None:
    onnx.checker.check_model(unet, full_check=True)

    mouths = run(unet, input=picture, audio=sound)

    assert np.abs(mouths[0] - expected).max() < 1e-5


@pytest.mark.parametrize("form", [ONNX_RUNTIME, *OPENVINO.values()], ids=["ONNX Runtime", *OPENVINO])
def test_its_cpu_form_is_the_same_network(
    run: Any, unet: onnx.ModelProto, picture: Array, sound: Array, expected: Array, form: Form
) -> None:
    model = cpu_form(unet, form)
    onnx.checker.check_model(model, full_check=True)

    mouth = run(model, input=picture[:1], audio=sound[:1])

    assert mouth.shape == (1, 3, 320, 320)
    assert np.abs(mouth[0] - expected).max() < 1e-5


def test_an_items_mouth_does_not_depend_on_the_batch(run: Any, unet: onnx.ModelProto, picture: Array, sound: Array) -> None:
    together = run(unet, input=picture, audio=sound)
    alone = [run(with_batch(unet, 1), input=picture[item : item + 1], audio=sound[item : item + 1]) for item in range(2)]

    assert np.array_equal(together, np.concatenate(alone))


def test_random_mouths_are_spread_and_follow_picture_and_sound(
    run: Any, unet: onnx.ModelProto, picture: Array, sound: Array
) -> None:
    first, other_picture, other_sound = run(unet, input=picture[[0, 1, 0]], audio=sound[[0, 0, 1]])

    assert first.min() > 0.01
    assert first.max() < 0.99
    assert np.quantile(first, 0.9) - np.quantile(first, 0.1) > 0.3
    assert np.abs(first - other_picture).mean() > 1 / 255
    assert np.abs(first - other_sound).mean() > 1 / 255


def test_the_encoder_is_the_published_one(run: Any, reference: Any) -> None:
    model = AUDIO_ENCODER.graph(random_weights(AUDIO_ENCODER, SEED))
    onnx.checker.check_model(model, full_check=True)
    mel = np.random.default_rng(4).uniform(-4, 4, (3, 1, 80, 16)).astype(np.float32)
    network = reference(random_weights(AUDIO_ENCODER, SEED))

    rows = run(model, mel=mel)

    expected = np.stack([network.encoder(window) for window in mel])
    assert np.abs(rows - expected).max() < 1e-4
    assert rows.min() >= 0
    assert 1 < rows.max() < 100


def test_the_services_recognise_their_ends(unet: onnx.ModelProto) -> None:
    ends = network_io(unet)
    assert (ends.visual, ends.audio, ends.output, ends.batch) == ("input", "audio", "output", None)
    assert network_io(cpu_form(unet, ONNX_RUNTIME)).batch == 1

    encoder = encoder_io(AUDIO_ENCODER.graph(random_weights(AUDIO_ENCODER, SEED)))
    assert (encoder.mel, encoder.rows, encoder.batch) == ("mel", "rows", None)
