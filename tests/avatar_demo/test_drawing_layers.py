"""The shipped layers and network are what the program makes."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from avatar_tools.demo.build import NETWORK_PATH
from avatar_tools.demo.scene import LAYERS_PATH, load_layer
from tools.demo_drawing.face import demo_network
from tools.demo_drawing.layers import draw_layers

A_ROUNDING = 1  # processors differ by it


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return draw_layers()


def test_no_layer_is_missing_or_left_over(drawn: dict[str, np.ndarray]) -> None:
    assert {path.name for path in LAYERS_PATH.iterdir()} == {f"{name}.png" for name in drawn}


def test_layers_are_as_drawn(drawn: dict[str, np.ndarray]) -> None:
    for name, pixels in drawn.items():
        shipped = cv2.imread(str(LAYERS_PATH / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert shipped.shape == pixels.shape, name
        visible = np.ones_like(pixels) if pixels.shape[2:] != (4,) else pixels[..., 3:] > 8  # faint colours are divided by little
        assert (np.abs(shipped.astype(int) - pixels) * visible).max() <= A_ROUNDING, name


def test_layers_are_small() -> None:
    assert sum(path.stat().st_size for path in LAYERS_PATH.iterdir()) < 1_000_000


def test_colours_are_multiplied_by_their_coverage() -> None:
    pixels = load_layer("body")
    assert pixels.dtype == np.float32
    assert (pixels[..., :3] <= pixels[..., 3:] + 1e-6).all()


def test_the_shipped_network_is_the_one_for_the_shipped_layers() -> None:
    shipped, built = onnx.load(NETWORK_PATH), demo_network()
    assert [node.SerializeToString() for node in shipped.graph.node] == [node.SerializeToString() for node in built.graph.node]
    for one, other in zip(shipped.graph.initializer, built.graph.initializer, strict=True):
        tolerance = A_ROUNDING if one.data_type == onnx.TensorProto.UINT8 else 1e-3
        np.testing.assert_allclose(
            numpy_helper.to_array(one), numpy_helper.to_array(other), rtol=0, atol=tolerance, err_msg=one.name
        )
