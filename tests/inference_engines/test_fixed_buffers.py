"""Runs with fixed buffers, as CUDA graphs need them, on the CPU, where nothing is captured: the bytes are those of other runs."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from avatar_kit.avatar import Avatar
from benchmarks.varied_avatars import small_network
from inference_service.engines.engine import NO_PICTURES
from inference_service.engines.fixed_buffers import FixedBuffers, WeightBlock
from inference_service.engines.network_sessions import NetworkSessions
from inference_service.engines.outputs import Mouths
from inference_service.engines.weights import DeviceWeights
from inference_service.graphs import wrapping
from inference_service.graphs.weights import SharedGraph, take_weights

from ..inference_service.conftest import MakeAvatar
from .conftest import CPU, OPTIONS, crop, on_cpu, run, windows
from .test_shared_sessions import mixing

FRAMES = 2


def taken(avatar: Avatar) -> tuple[SharedGraph, DeviceWeights]:
    model, network = wrapping.wrap_network(
        avatar.network_path, avatar.mask, for_cpu=False, fixed_reference=avatar.reference_frame is not None
    )
    found = take_weights(model, network)
    assert found is not None
    graph, block = found
    return graph, DeviceWeights(graph.places, block, CPU)


def made(fixed: FixedBuffers, weights: DeviceWeights, avatar: Avatar, frames: list[int], seed: int) -> Mouths:
    along = frames if avatar.reference_frame is None else [*frames, avatar.reference_frame]
    inputs = {
        wrapping.BANK: np.stack([crop(avatar, frame).transpose(2, 0, 1) for frame in along]),
        wrapping.SLOTS: np.arange(FRAMES),
        wrapping.REFERENCE_SLOT: np.array([len(along) - 1]),
        wrapping.SENT_PICTURES: NO_PICTURES,
        "lipsync/windows": windows(FRAMES, seed).reshape(-1, 32, 16, 16),
    }
    fixed.run(weights, inputs, "network.onnx")
    mouths = Mouths(FRAMES, want_float=True, want_uint8=True)
    fixed.take(mouths, slice(0, FRAMES))
    return mouths


@pytest.mark.parametrize("reference", [None, 3])
def test_avatars_in_turn_get_their_own_mouths(make_avatar: MakeAvatar, reference: int | None) -> None:
    avatars = [make_avatar(f"a{seed}", model=mixing(seed), reference_frame=reference) for seed in range(2)]
    graph, _ = taken(avatars[0])
    sessions = NetworkSessions(graph.model, graph.network, CPU, OPTIONS, name="network.onnx", run_sizes=(FRAMES,))
    fixed = FixedBuffers(sessions.sessions[0], graph.network, WeightBlock(graph.places, CPU), CPU, FRAMES)
    loaded = [taken(avatar)[1] for avatar in avatars]
    plain = [on_cpu(avatar) for avatar in avatars]
    for turn, (place, frames) in enumerate([(0, [1, 2]), (1, [1, 2]), (1, [0, 4]), (0, [1, 2])]):
        mouths = made(fixed, loaded[place], avatars[place], frames, turn)
        expected, output = run(plain[place], frames, windows(FRAMES, turn))
        assert mouths.floats is not None
        assert mouths.pixels is not None
        assert output.mouths_uint8 is not None
        np.testing.assert_allclose(mouths.floats, expected, atol=2e-6)
        assert np.abs(mouths.pixels.astype(int) - output.mouths_uint8).max() <= 1
        assert mouths.finite.all()


def test_an_avatar_that_is_gone_is_not_taken_for_its_successor(make_avatar: MakeAvatar) -> None:
    """Whose weights may lie in the same memory."""
    first, second = (make_avatar(f"a{seed}", model=mixing(seed)) for seed in range(2))
    graph, weights = taken(first)
    sessions = NetworkSessions(graph.model, graph.network, CPU, OPTIONS, name="network.onnx", run_sizes=(FRAMES,))
    fixed = FixedBuffers(sessions.sessions[0], graph.network, WeightBlock(graph.places, CPU), CPU, FRAMES)
    made(fixed, weights, first, [0, 1], 0)
    del weights
    gc.collect()
    mouths = made(fixed, taken(second)[1], second, [0, 1], 0)
    assert mouths.floats is not None
    np.testing.assert_allclose(mouths.floats, run(on_cpu(second), [0, 1], windows(FRAMES))[0], atol=2e-6)


def test_weights_of_several_layers_lie_where_the_graph_looks_for_them(make_avatar: MakeAvatar) -> None:
    avatar = make_avatar(model=small_network())
    graph, weights = taken(avatar)
    assert all(place.offset % 256 == 0 for place in graph.places)
    sessions = NetworkSessions(graph.model, graph.network, CPU, OPTIONS, name="network.onnx", run_sizes=(FRAMES,))
    fixed = FixedBuffers(sessions.sessions[0], graph.network, WeightBlock(graph.places, CPU), CPU, FRAMES)
    mouths = made(fixed, weights, avatar, [2, 3], 5)
    assert mouths.floats is not None
    np.testing.assert_allclose(mouths.floats, run(on_cpu(avatar), [2, 3], windows(FRAMES, 5))[0], atol=2e-6)
