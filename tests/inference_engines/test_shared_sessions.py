"""Avatars whose networks differ in their weights alone run in the same sessions, each as if it were alone."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from avatar_kit.avatar import Avatar
from avatar_kit.geometry import Mask
from avatar_tools.networks.free import free_network
from avatar_tools.networks.random_weights import random_weights
from avatar_tools.networks.unet import UNET
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.settings import OnnxSection

from ..end_to_end.avatars import looping_network
from ..inference_service.conftest import MIX, MakeAvatar
from .conftest import CPU, SHARING, network_input, on_cpu, run, windows
from .mixing_network import mixing

MOUTHS = np.zeros((2, 320, 320, 3), np.uint8)


def with_weights_among_inputs(ir_version: int) -> onnx.ModelProto:
    """Makes a network of the form before version 4, which some later files have too; one weight is read by nobody."""
    model = mixing(2)
    model.ir_version = ir_version
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "idle"))
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def with_shared_weights() -> onnx.ModelProto:
    """A weight that two nodes read, and one that is a weight for one node and data for another."""
    model = mixing(2)
    graph = model.graph
    mixed = graph.node[0].output[0]
    graph.node[0].output[0] = "once"
    graph.initializer.append(numpy_helper.from_array(np.full((3, 3, 1, 1), 0.3, np.float32), "square"))
    graph.node.insert(1, onnx.helper.make_node("Conv", ["once", "square"], ["twice"]))
    graph.node.insert(2, onnx.helper.make_node("Conv", ["twice", "square"], ["thrice"]))
    graph.node.insert(3, onnx.helper.make_node("ReduceSum", ["mix"], ["total"], keepdims=0))
    graph.node.insert(4, onnx.helper.make_node("Add", ["thrice", "total"], [mixed]))
    return model


def opened(shared: SharedSessions, *avatars: Avatar) -> list[OnnxEngine]:
    return [OnnxEngine(avatar, CPU, SHARING, shared=shared) for avatar in avatars]


def pixels(engine: OnnxEngine, frames: list[int], sound: NDArray[np.float32]) -> NDArray[np.uint8]:
    engine.bank.ensure(frames)
    made = engine.run(EngineInput(sound, np.array(frames, np.int64), NO_PICTURES, want_float=False, want_uint8=True)).mouths_uint8
    assert made is not None
    return made


def test_each_is_as_if_it_were_alone_in_any_order(make_avatar: MakeAvatar) -> None:
    shared = SharedSessions(SHARING)
    avatars = [make_avatar(f"a{seed}", model=mixing(seed)) for seed in range(3)]
    sound, frames = windows(3), [2, 0, 1]
    alone = [run(opened(SharedSessions(SHARING), avatar)[0], frames, sound)[0] for avatar in avatars]
    plain = [run(on_cpu(avatar), frames, sound)[0] for avatar in avatars]
    engines = opened(shared, *avatars)
    assert len({engine.shared_memory for engine in engines}) == 1
    for order in itertools.permutations(range(3)):
        for place in order:
            np.testing.assert_array_equal(run(engines[place], frames, sound)[0], alone[place])
    for ours, theirs in zip(alone, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert not np.allclose(plain[0], plain[1], atol=0.01), "the avatars differ"


@pytest.mark.slow
def test_full_size_networks_share_sessions_and_keep_their_bytes(make_avatar: MakeAvatar) -> None:
    avatars = [make_avatar(f"a{seed}", model=UNET.graph(random_weights(UNET, seed))) for seed in range(2)]
    engines = opened(SharedSessions(SHARING), *avatars)
    assert len({engine.shared_memory for engine in engines}) == 1
    sound, frames = windows(1), [3]
    alone = [pixels(engine, frames, sound) for engine in engines]
    for place in (1, 0):
        np.testing.assert_array_equal(pixels(engines[place], frames, sound), alone[place])
    for avatar, ours in zip(avatars, alone, strict=True):
        theirs = pixels(on_cpu(avatar), frames, sound)
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_masks_are_weights_too(make_avatar: MakeAvatar) -> None:
    masks = [Mask(5, 5, 310, 315), Mask(5, 5, 310, 305)]
    avatars = [make_avatar(f"a{number}", mask=mask) for number, mask in enumerate(masks)]
    engines = opened(SharedSessions(SHARING), *avatars)
    assert engines[0].shared_memory is engines[1].shared_memory
    for engine, avatar, mask in zip(engines, avatars, masks, strict=True):
        pictures = network_input(avatar, 1, mask=(mask.x, mask.y, mask.width, mask.height)).astype(np.float64)
        mixed = np.einsum("oi,ihw->ohw", MIX[:, :, 0, 0].astype(np.float64), pictures)
        expected = 1 / (1 + np.exp(-(mixed + windows(1).mean(dtype=np.float64))))
        np.testing.assert_allclose(run(engine, [1], windows(1))[0][0], expected, atol=2e-6)


@pytest.mark.parametrize(
    ("other", "is_shared"),
    [
        (mixing(2), True),
        (mixing(2, visual="pictures of another exporter"), True),
        (with_weights_among_inputs(8), True),
        (with_weights_among_inputs(3), False),
        (with_shared_weights(), False),
        (mixing(2, scale=0.5), False),
        (mixing(2, batch=1), False),
        (mixing(2, batch=2), False),
    ],
    ids=[
        "weights",
        "names",
        "weights among inputs",
        "an old file",
        "weights read twice",
        "a constant",
        "a batch of one",
        "a batch of two",
    ],
)
def test_graphs_that_differ_in_more_than_weights_and_names_have_sessions_of_their_own(
    make_avatar: MakeAvatar, other: onnx.ModelProto, *, is_shared: bool
) -> None:
    avatars = make_avatar("a", model=mixing(1)), make_avatar("b", model=other)
    engines = opened(SharedSessions(SHARING), *avatars)
    assert (engines[0].shared_memory is engines[1].shared_memory) == is_shared
    for engine, avatar in zip(engines, avatars, strict=True):
        np.testing.assert_allclose(run(engine, [1], windows(1))[0], run(on_cpu(avatar), [1], windows(1))[0], atol=2e-6)


@pytest.mark.parametrize("model", [looping_network(50), free_network(MOUTHS)], ids=["with a loop", "with other data"])
def test_a_network_that_cannot_share_has_a_session_of_its_own(make_avatar: MakeAvatar, model: onnx.ModelProto) -> None:
    avatar = make_avatar(model=model)
    engine = opened(SharedSessions(SHARING), avatar)[0]
    assert (engine.shared_memory, engine.weight_bytes) == (None, 0)
    np.testing.assert_array_equal(run(engine, [1], windows(1))[0], run(on_cpu(avatar), [1], windows(1))[0])


def test_shared_sessions_are_closed_with_their_last_avatar(make_avatar: MakeAvatar) -> None:
    shared = SharedSessions(SHARING)
    avatars = [make_avatar(f"a{seed}", model=mixing(seed)) for seed in range(2)]
    engines = opened(shared, *avatars)
    first = engines[0].shared_memory
    del engines[0]
    assert opened(shared, avatars[0])[0].shared_memory is first
    engines.clear()
    gc.collect()
    assert opened(shared, avatars[0])[0].shared_memory is not first


def test_on_a_cpu_sessions_are_shared_only_where_the_setting_says_so(make_avatar: MakeAvatar) -> None:
    options = OnnxSection(intra_op_threads=1)
    engine = OnnxEngine(make_avatar(), CPU, options, shared=SharedSessions(options))
    assert engine.shared_memory is None
