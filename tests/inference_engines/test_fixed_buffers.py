"""Runs with fixed buffers, as CUDA graphs need them, on the CPU, where nothing is captured: the bytes are those of other runs."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest

from avatar_kit.avatar import Avatar
from benchmarks.varied_avatars import small_network
from inference_service.engines.capturing import CaptureGate
from inference_service.engines.crop_arena import CROP_BYTES, CropArena
from inference_service.engines.crops import CropBank
from inference_service.engines.fixed_buffers import FixedBuffers, WeightBlock
from inference_service.engines.outputs import Mouths
from inference_service.engines.sessions import NOT_CAPTURED, open_session
from inference_service.engines.weights import DeviceWeights
from inference_service.graphs import wrapping
from inference_service.graphs.weights import SharedGraph, take_weights

from ..inference_service.conftest import MakeAvatar
from .conftest import CPU, OPTIONS, crop, on_cpu, run, windows
from .mixing_network import mixing

FRAMES = 2
PATIENCE_S = 60


def taken(avatar: Avatar) -> tuple[SharedGraph, DeviceWeights]:
    model, network = wrapping.wrap_network(
        avatar.network_path, avatar.mask, for_cpu=False, fixed_reference=avatar.reference_frame is not None
    )
    found = take_weights(model, network)
    assert found is not None
    graph, block = found
    return graph, DeviceWeights(graph.places, block, CPU)


def buffers(graph: SharedGraph) -> FixedBuffers:
    session = open_session(wrapping.without_sent_pictures(graph.model), CPU, OPTIONS, name="network.onnx", captures=True)
    block, thread = WeightBlock(graph.places, CPU), ThreadPoolExecutor(1)
    return FixedBuffers(session, graph.network, block, CPU, FRAMES, thread=thread)


def made(fixed: FixedBuffers, weights: DeviceWeights, avatar: Avatar, frames: list[int], seed: int) -> Mouths:
    along = frames if avatar.reference_frame is None else [*frames, avatar.reference_frame]
    inputs = {
        wrapping.BANK: np.stack([crop(avatar, frame).transpose(2, 0, 1) for frame in along]),
        wrapping.SLOTS: np.arange(FRAMES),
        wrapping.REFERENCE_SLOT: np.array([len(along) - 1]),
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
    fixed = buffers(graph)
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
    fixed = buffers(graph)
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
    fixed = buffers(graph)
    mouths = made(fixed, weights, avatar, [2, 3], 5)
    assert mouths.floats is not None
    np.testing.assert_allclose(mouths.floats, run(on_cpu(avatar), [2, 3], windows(FRAMES, 5))[0], atol=2e-6)


def test_the_crops_may_lie_in_an_arena(make_avatar: MakeAvatar) -> None:
    avatar = make_avatar(model=mixing(1))
    graph, weights = taken(avatar)
    arena = CropArena(CPU, 12 * CROP_BYTES)
    bank = CropBank(avatar, CPU, arena=arena)
    session = open_session(wrapping.without_sent_pictures(graph.model), CPU, OPTIONS, name="network.onnx")
    sizes = {
        size: FixedBuffers(
            session, graph.network, WeightBlock(graph.places, CPU), CPU, size, thread=ThreadPoolExecutor(1), bank=arena.bank
        )
        for size in (1, 2)
    }
    bank.ensure(range(5))
    for frames in ([4, 2], [3], [0, 1]):
        fixed, sound = sizes[len(frames)], windows(len(frames))
        with bank.fed(np.array(frames)) as crops:
            assert fixed.takes(crops.bank)
            assert not fixed.takes(np.zeros((1, 3, 320, 320), np.uint8))
            inputs = {wrapping.BANK: crops.bank, wrapping.SLOTS: crops.slots, "lipsync/windows": sound.reshape(-1, 32, 16, 16)}
            fixed.run(weights, inputs, "network.onnx")
        mouths = Mouths(len(frames), want_float=True, want_uint8=False)
        fixed.take(mouths, slice(0, len(frames)))
        assert mouths.floats is not None
        np.testing.assert_allclose(mouths.floats, run(on_cpu(avatar), frames, sound)[0], atol=2e-6)


class Watched:
    """A session that notes the threads of its runs, and the graphs that they replay."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.io_binding = session.io_binding
        self.threads: list[int] = []
        self.graphs: list[str] = []
        self._session = session

    def run_with_iobinding(self, binding: onnxruntime.IOBinding, options: onnxruntime.RunOptions) -> None:
        self.threads.append(threading.get_ident())
        self.graphs.append(options.get_run_config_entry("gpu_graph_id"))
        self._session.run_with_iobinding(binding, options)


def test_all_runs_are_on_one_thread_whoever_asks(make_avatar: MakeAvatar) -> None:
    """A graph captured on one thread is not there for another. A run before it chooses kernels, and holds up nobody."""
    avatar = make_avatar(model=mixing(1))
    graph, weights = taken(avatar)
    session = Watched(open_session(wrapping.without_sent_pictures(graph.model), CPU, OPTIONS, name="network.onnx"))
    fixed = FixedBuffers(session, graph.network, WeightBlock(graph.places, CPU), CPU, FRAMES, thread=ThreadPoolExecutor(1))
    with ThreadPoolExecutor(2) as askers:
        for turn in range(4):
            askers.submit(made, fixed, weights, avatar, [1, 2], turn).result()
    made(fixed, weights, avatar, [1, 2], 0)
    assert session.graphs == [NOT_CAPTURED] + 5 * [str(FRAMES)]
    assert len(set(session.threads)) == 1


def test_while_a_graph_is_captured_no_other_call_is_made() -> None:
    gate, capturing, go_on = CaptureGate(), threading.Event(), threading.Event()
    order: list[str] = []

    def capture() -> None:
        with gate.capture():
            order.append("capture begins")
            capturing.set()
            go_on.wait(PATIENCE_S)
            order.append("capture ends")

    def call() -> None:
        with gate.call():
            order.append("call")

    with ThreadPoolExecutor(3) as threads:
        with gate.call():
            waiting = threads.submit(capture)
            assert not capturing.wait(0.05), "a call is under way"
        assert capturing.wait(PATIENCE_S)
        others = [threads.submit(call) for _ in range(2)]
        assert order == ["capture begins"]
        go_on.set()
        for done in (waiting, *others):
            done.result(PATIENCE_S)
    assert order == ["capture begins", "capture ends", "call", "call"]
