"""The layout of the published checkpoints, and what does not fit it."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_tools.networks.audio_encoder import AUDIO_ENCODER
from avatar_tools.networks.random_weights import random_weights
from avatar_tools.networks.unet import UNET
from avatar_tools.networks.weights import WeightsError, check_weights, parameter_count


def test_the_published_counts() -> None:
    unet, encoder = random_weights(UNET, 0), random_weights(AUDIO_ENCODER, 0)

    assert (len(unet), parameter_count(unet)) == (556, 12_186_935)
    assert (len(encoder), parameter_count(encoder)) == (91, 2_812_672)


def test_random_weights_are_those_of_the_seed() -> None:
    one, same, other = random_weights(UNET, 5), random_weights(UNET, 5), random_weights(UNET, 6)

    assert all(np.array_equal(one[key], same[key]) for key in one)
    assert not np.array_equal(one["outc.conv.weight"], other["outc.conv.weight"])
    assert {array.dtype for array in one.values()} == {np.dtype(np.float32), np.dtype(np.int64)}


def test_every_problem_is_named() -> None:
    weights = random_weights(AUDIO_ENCODER, 0)
    del weights["3.conv_block.0.bias"]
    weights["12.conv_block.0.weight"] = weights["12.conv_block.0.weight"][:, :100]
    weights["model.extra"] = np.zeros(3, np.float32)
    weights["0.conv_block.1.running_var"] = -weights["0.conv_block.1.running_var"]
    weights["1.conv_block.0.weight"] = np.full_like(weights["1.conv_block.0.weight"], np.nan)

    with pytest.raises(WeightsError) as caught:
        AUDIO_ENCODER.graph(weights)

    assert sorted(caught.value.problems) == [
        "0.conv_block.1.running_var: has negative variances",
        "1.conv_block.0.weight: has values that are not finite",
        "12.conv_block.0.weight: has the shape [512, 100, 1, 1], not [512, 512, 1, 1]",
        "missing: 3.conv_block.0.bias",
        "unknown: model.extra",
    ]


def test_another_networks_weights_do_not_flood_the_message() -> None:
    with pytest.raises(WeightsError) as caught:
        UNET.graph(random_weights(AUDIO_ENCODER, 0))

    assert len(caught.value.problems) < 20


def test_counters_may_be_missing() -> None:
    weights = {key: array for key, array in random_weights(AUDIO_ENCODER, 0).items() if not key.endswith("num_batches_tracked")}

    check_weights(weights, AUDIO_ENCODER.shapes())


def test_half_precision_weights_do() -> None:
    weights = {key: array.astype(np.float16) for key, array in random_weights(AUDIO_ENCODER, 0).items()}

    assert {tensor.data_type for tensor in AUDIO_ENCODER.graph(weights).graph.initializer} == {1}


def test_the_last_key_is_checked_too() -> None:
    weights = random_weights(UNET, 0)
    del weights["outc.conv.bias"]

    with pytest.raises(WeightsError, match=r"missing: outc\.conv\.bias"):
        check_weights(weights, UNET.shapes())
