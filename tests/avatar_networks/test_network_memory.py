"""What a network takes: worked out by hand for small graphs, held to ONNX Runtime's own appetite for the full-size one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avatar_kit.errors import BrokenAvatar
from avatar_kit.network_memory import CPU_BATCH, GPU_BATCH, cpu_memory, gpu_memory, peak_bytes
from avatar_kit.networks.random_weights import random_unet_weights
from avatar_kit.networks.unet import unet_graph


def chain(*nodes: str) -> onnx.GraphProto:
    """A graph of nodes, each "Kind: inputs -> outputs"; what nobody makes is its input, what nobody reads its output."""
    made, read, parsed = [], [], []
    for node in nodes:
        kind, _, rest = node.partition(": ")
        before, _, after = rest.partition(" -> ")
        parsed.append(helper.make_node(kind, before.split(), after.split()))
        read += before.split()
        made += after.split()

    def values(names):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]

    inputs = [name for name in dict.fromkeys(read) if name not in made]
    return helper.make_graph(parsed, "g", values(inputs), values(name for name in made if name not in read))


@pytest.mark.parametrize(
    ("nodes", "sizes", "peak"),
    [
        (["Conv: x -> a"], {"x": 6, "a": 10}, 16),
        (["Conv: x -> a", "Conv: a -> b", "Conv: b -> y"], {"x": 1, "a": 5, "b": 20, "y": 2}, 25),
        (["Conv: x -> a", "Relu: a -> b", "Conv: b -> y"], {"x": 1, "a": 50, "b": 50, "y": 2}, 52),
        (["Conv: x -> a", "Relu: a -> b", "Add: a b -> y"], {"x": 1, "a": 50, "b": 50, "y": 50}, 100),
        (["Conv: x -> a", "Conv: a -> b", "Conv: b -> c", "Conv: c -> y"], {"x": 9, "a": 30, "b": 40, "c": 30, "y": 9}, 79),
        (["Conv: x -> a", "Conv: x -> b", "Concat: a b -> y"], {"x": 4, "a": 8, "b": 8, "y": 16}, 32),
        (["Split: x -> a unread", "Conv: a -> y"], {"x": 4, "a": 4, "unread": 4, "y": 90}, 94),
        (["Conv: x -> unknown", "Conv: unknown -> y"], {"x": 4, "y": 8}, 8),
    ],
    ids=["one", "freed", "in place", "still read", "reused", "two at once", "two outputs", "of no known size"],
)
def test_the_peak_of_a_few_nodes(nodes: list[str], sizes: dict[str, int], peak: int) -> None:
    graph = chain(*nodes)
    for value in list(graph.output):
        if value.name == "unread":
            graph.output.remove(value)
    assert peak_bytes(graph, sizes) == peak


def saved(tmp_path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, tmp_path / "network.onnx")
    return tmp_path / "network.onnx"


def mouth_network(batch: int | str, *, weight: np.ndarray | None = None, stale: bool = False) -> onnx.ModelProto:
    """Multiplies the picture by a weight, drops three planes and adds a little of the sound."""
    shapes = {"seen": [batch, 6, 320, 320], "heard": [batch, 32, 16, 16], "mouth": [batch, 3, 320, 320]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    constants = {
        "w": np.ones((1, 6, 1, 1), np.float32) if weight is None else weight,
        "start": np.array([0]),
        "end": np.array([3]),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Mul", ["seen", "w"], ["scaled"]),
        helper.make_node("Slice", ["scaled", "start", "end", "axis"], ["three"]),
        helper.make_node("ReduceMean", ["heard"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Add", ["three", "mean"], ["mouth"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [values["seen"], values["heard"]],
        [values["mouth"]],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
        value_info=[helper.make_tensor_value_info("scaled", TensorProto.FLOAT, [9, 6, 320, 320])] if stale else [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("stale", [False, True])
def test_every_frame_of_a_batch_counts(tmp_path: Path, stale: bool) -> None:
    memory = gpu_memory(saved(tmp_path, mouth_network("N", stale=stale)))
    picture, sound = 4 * 6 * 320 * 320, 4 * 32 * 16 * 16
    assert memory.batch == GPU_BATCH
    assert memory.weights == 4 * 6 + 3 * 8
    assert memory.is_complete
    assert memory.work == GPU_BATCH * (picture + sound + picture // 2), "the product lies over the picture, the mouth beside it"


def test_a_fixed_batch_is_what_is_run(tmp_path: Path) -> None:
    assert gpu_memory(saved(tmp_path, mouth_network(2))).batch == 2
    assert cpu_memory(saved(tmp_path, mouth_network(2))).batch == 2
    assert cpu_memory(saved(tmp_path, mouth_network("N"))).batch == CPU_BATCH


@pytest.mark.parametrize("says_where", [True, False], ids=["of another domain", "of a domain that is not said"])
def test_what_can_not_be_known_is_said(tmp_path: Path, says_where: bool) -> None:
    model = mouth_network("N")
    model.graph.node[0].op_type, model.graph.node[0].domain = "Mystery", "elsewhere"
    if says_where:
        model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    for look in (gpu_memory, cpu_memory):
        memory = look(saved(tmp_path, model))
        assert not memory.is_complete
        assert memory.work > 0


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x08"])
def test_what_is_no_network(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(content)
    for look in (gpu_memory, cpu_memory):
        with pytest.raises(BrokenAvatar, match=r"^network\.onnx"):
            look(path)


def test_a_graph_of_many_nodes_takes_no_long_thought(tmp_path: Path) -> None:
    model = mouth_network("N")
    last = model.graph.node[-1]
    last.output[0] = "x0"
    model.graph.node.extend(helper.make_node("Relu", [f"x{k}"], [f"x{k + 1}"]) for k in range(20_000))
    model.graph.node.append(helper.make_node("Relu", ["x20000"], ["mouth"]))
    assert gpu_memory(saved(tmp_path, model)).work == gpu_memory(saved(tmp_path, mouth_network("N"))).work


def test_the_batches_are_those_of_the_service() -> None:
    from inference_service.engine import CPU_FRAMES
    from inference_service.service import DEFAULT_BATCH

    assert {True: GPU_BATCH, False: CPU_BATCH} == DEFAULT_BATCH
    assert CPU_BATCH == CPU_FRAMES


PEAK = """
import sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.enable_cpu_mem_arena = options.enable_mem_pattern = False
options.intra_op_num_threads = 1
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {end.name: np.full([int(sys.argv[2]), *end.shape[1:]], 0.5, np.float32) for end in session.get_inputs()}
session.run(None, feeds)
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_full_size_network_grows_as_onnxruntime_does(tmp_path: Path) -> None:
    """Resident memory of fresh processes that run two frames, and four: without arenas each allocation shows."""
    path = saved(tmp_path, unet_graph(random_unet_weights(1)))

    def resident(batch: int) -> int:
        command = [sys.executable, "-c", PEAK, str(path), str(batch)]
        at_once_given_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
        return int(subprocess.run(command, env=at_once_given_back, capture_output=True, check=True, text=True).stdout)

    measured = (resident(4) - resident(2)) / 2
    memory = gpu_memory(path)
    assert memory.is_complete
    assert memory.weights == pytest.approx(48.6e6, rel=0.01)
    assert measured < memory.work / GPU_BATCH < 1.35 * measured, "what is to be used again is held in between"
