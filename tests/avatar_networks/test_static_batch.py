"""Fixing a batch size."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from avatar_kit.onnx_io import encoder_io, network_io
from avatar_tools.networks.free import free_encoder, free_network
from inference_service.graphs.batch import with_static_batch


def mouths(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 320, 320, 3), np.uint8)


def test_the_copy_is_fixed_and_the_original_open() -> None:
    model = free_network(mouths(2))

    fixed = with_static_batch(model, 1)

    onnx.checker.check_model(fixed, full_check=True)
    assert network_io(fixed).batch == 1
    assert network_io(model).batch is None
    assert encoder_io(with_static_batch(free_encoder(), 16)).batch == 16


def test_onnx_runtime_refuses_another_size(run: Any) -> None:
    fixed = with_static_batch(free_encoder(), 2)

    assert run(fixed, mel=np.zeros((2, 1, 80, 16), np.float32)).shape == (2, 512)
    with pytest.raises(Exception, match="dimensions"):
        run(fixed, mel=np.zeros((3, 1, 80, 16), np.float32))


@pytest.mark.parametrize(("size", "message"), [(0, "at least 1"), (4, "fixed to a batch of 2")])
def test_sizes_that_can_not_be(size: int, message: str) -> None:
    fixed = with_static_batch(free_encoder(), 2)

    with pytest.raises(ValueError, match=message):
        with_static_batch(fixed, size)


def test_fixing_again_to_the_same_size_is_fine() -> None:
    fixed = with_static_batch(free_encoder(), 2)

    assert with_static_batch(fixed, 2) == fixed
