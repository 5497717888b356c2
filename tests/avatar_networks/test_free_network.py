"""The networks that cost nothing still have the ends, the values and the liveliness of real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from avatar_kit.onnx_io import encoder_io, network_io
from avatar_tools.networks.free import free_encoder, free_network
from inference_service.graphs.graph import needed_nodes


@pytest.fixture(scope="module")
def mouths() -> NDArray[np.uint8]:
    generator = np.random.default_rng(0)
    extremes = np.stack([np.zeros((320, 320, 3)), np.full((320, 320, 3), 255)])
    return np.concatenate([extremes, generator.integers(0, 256, (3, 320, 320, 3))]).astype(np.uint8)


def test_it_gives_the_stored_mouths_exactly(run: Any, mouths: NDArray[np.uint8]) -> None:
    model = free_network(mouths)
    onnx.checker.check_model(model, full_check=True)
    levels = (np.arange(12) + 0.5) / 7
    sound = np.broadcast_to(levels[:, None, None, None], (12, 32, 16, 16)).astype(np.float32)

    output = run(model, input=np.zeros((12, 6, 320, 320), np.float32), audio=sound)

    assert output.shape == (12, 3, 320, 320)
    assert output.min() >= 0
    assert output.max() <= 1
    pixels = (output * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1)
    assert np.array_equal(pixels, mouths[np.arange(12) % 5])


@pytest.mark.parametrize("value", [-3.0, -1e30, 1e30, np.inf, np.nan])
def test_no_sound_breaks_it(run: Any, mouths: NDArray[np.uint8], value: float) -> None:
    sound = np.full((1, 32, 16, 16), value, np.float32)

    output = run(free_network(mouths), input=np.zeros((1, 6, 320, 320), np.float32), audio=sound)

    assert np.isfinite(output).all()


def test_what_prepares_pictures_is_not_needed(mouths: NDArray[np.uint8]) -> None:
    model = free_network(mouths)
    preparation = [helper.make_node("Mul", ["crop", "scale"], ["scaled"]), helper.make_node("Identity", ["scaled"], ["input"])]

    kept = needed_nodes([*preparation, *model.graph.node], ["output"])

    assert kept == list(model.graph.node)
    assert network_io(model).visual == "input"


@pytest.mark.parametrize("shape", [(320, 320, 3), (0, 320, 320, 3), (2, 3, 320, 320)])
def test_mouths_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        free_network(np.zeros(shape, np.uint8))


def test_the_encoder_is_silent_in_silence_and_follows_the_sound(run: Any) -> None:
    model = free_encoder()
    onnx.checker.check_model(model, full_check=True)
    mel = np.random.default_rng(1).uniform(-4, 4, (3, 1, 80, 16)).astype(np.float32)
    mel[0] = -4

    rows = run(model, mel=mel)

    assert encoder_io(model).batch is None
    assert rows.shape == (3, 512)
    assert not rows[0].any()
    assert rows.min() >= 0
    assert np.abs(rows[1] - rows[2]).mean() > 0.5
