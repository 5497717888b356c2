"""Runs of several sizes: a batch is cut into them, and only those that give the same bytes are used.

On a CPU, whose kernels round alike for all sizes, a network looks at the size of its run where sizes should differ.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.engines.run_sizes import runs_of
from inference_service.settings import OnnxSection

from ..inference_service.conftest import MakeAvatar, network
from .conftest import CPU, run, windows

BUCKETS = OnnxSection(intra_op_threads=1, batch_buckets=(4, 1, 2, 16))


def network_that_rounds_otherwise(below: int) -> onnx.ModelProto:
    """The small network, a little brighter in runs of fewer frames than `below`."""
    model = network()
    graph = model.graph
    graph.node[-2].output[0] = "sum of all sizes"
    graph.initializer.append(numpy_helper.from_array(np.array(below, np.int64), "below"))
    graph.initializer.append(numpy_helper.from_array(np.array(1e-3, np.float32), "little"))
    for place, (kind, inputs, output, more) in enumerate(
        [
            ("Shape", ["input"], "shape", {"start": 0, "end": 1}),
            ("Less", ["shape", "below"], "is small", {}),
            ("Cast", ["is small"], "1 or 0", {"to": TensorProto.FLOAT}),
            ("Mul", ["1 or 0", "little"], "more", {}),
            ("Add", ["sum of all sizes", "more"], "sum", {}),
        ]
    ):
        graph.node.insert(len(graph.node) - 1, helper.make_node(kind, inputs, [output], name=f"size{place}", **more))
    model.opset_import[0].version = 15  # Shape with a start
    for node in graph.node:
        if node.op_type == "ReduceMean":
            assert node.attribute, "axes are an attribute up to operator set 17"
    return model


@pytest.mark.parametrize("shares", [False, True], ids=["sessions of its own", "shared sessions"])
def test_sizes_that_agree_are_all_used_and_give_the_bytes_of_single_runs(make_avatar: MakeAvatar, *, shares: bool) -> None:
    options = BUCKETS.model_copy(update={"share_sessions": shares})
    avatar = make_avatar(reference_frame=2)
    plain = OnnxEngine(avatar, CPU, OnnxSection(intra_op_threads=1))
    engine = OnnxEngine(avatar, CPU, options, run_frames=8, shared=SharedSessions(options))
    assert engine.run_frames == 8, "before they were compared"
    warm = engine.warm_up()
    assert engine.run_sizes == (1, 2, 4, 8), "16 is more than a full run"
    assert warm.mouths_float is not None
    assert len(warm.mouths_float) == engine.run_frames == 1
    for count in (1, 2, 3, 4, 5, 8, 9, 11, 13):
        frames = [(place * 3) % 5 for place in range(count)]
        expected, _ = run(plain, frames, windows(count))
        np.testing.assert_allclose(run(engine, frames, windows(count))[0], expected, atol=2e-6)
    sent = np.random.default_rng(3).uniform(0, 1, (3, 6, 320, 320)).astype(np.float32)
    expected, _ = run(plain, [1], windows(4), sent)
    np.testing.assert_allclose(run(engine, [1], windows(4), sent)[0], expected, atol=2e-6)


@pytest.mark.parametrize(("below", "used"), [(2, (2, 4, 8)), (3, (4, 8)), (8, (8,)), (1, (1, 2, 4, 8))])
def test_sizes_that_differ_are_not_used_and_the_log_says_so(
    make_avatar: MakeAvatar, caplog: pytest.LogCaptureFixture, below: int, used: tuple[int, ...]
) -> None:
    avatar = make_avatar(model=network_that_rounds_otherwise(below))
    engine = OnnxEngine(avatar, CPU, BUCKETS, run_frames=8)
    with caplog.at_level(logging.WARNING):
        engine.warm_up()
    assert engine.run_sizes == used
    others = [size for size in (1, 2, 4) if size not in used]
    assert [f"runs of {', '.join(map(str, others))} frames give other bytes" in text for text in caplog.messages] == (
        [True] if others else []
    )
    together, _ = run(engine, [0, 1, 2, 3, 4], windows(5))
    for frame in range(5):
        np.testing.assert_array_equal(run(engine, [frame], windows(5)[frame : frame + 1])[0][0], together[frame])


def test_a_network_of_a_fixed_batch_keeps_to_it(make_avatar: MakeAvatar) -> None:
    engine = OnnxEngine(make_avatar(model=network(batch=2)), CPU, BUCKETS, run_frames=8)
    engine.warm_up()
    assert engine.run_sizes == (2,)


@given(st.integers(0, 100), st.sets(st.integers(1, 16), min_size=1).map(sorted))
def test_the_runs_of_a_batch_hold_it_with_no_more_room_than_needed(count: int, sizes: list[int]) -> None:
    runs = runs_of(count, sizes)
    assert sum(runs) >= count
    assert set(runs) <= set(sizes)
    assert all(size == sizes[-1] for size in runs[:-1])
    if runs:
        rest = count - sum(runs[:-1])
        assert all(size < rest or size >= runs[-1] for size in sizes)
