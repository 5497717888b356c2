"""Opens and runs ONNX Runtime sessions, and turns its errors into ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnxruntime

from avatar_kit.cores import usable_cores
from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_files import runtime_reason
from inference_service.engines.capturing import GATE
from inference_service.engines.devices import CPU, CUDA, SILENT, TENSORRT, Device, DeviceError
from inference_service.engines.plugins import PLUGINS, plugin_devices
from inference_service.engines.tensorrt import tensorrt_options
from inference_service.limited_threads import interruptible
from inference_service.settings import OnnxSection

# Operators that take nearly all of the time: a GPU must run them itself, and a CPU shares them among its cores.
PRODUCTS = frozenset({"Conv", "FusedConv", "ConvTranspose", "MatMul", "Gemm"})
HEAVY_OPERATORS = PRODUCTS | {"Resize"}


def open_session(
    model: onnx.ModelProto, device: Device, options: OnnxSection, *, name: str, captures: bool = False
) -> onnxruntime.InferenceSession:
    """Opens a session of `model` on `device`. `captures`: its runs replay CUDA graphs, where the device has them.

    Raises BrokenAvatar, naming the file `name`, when ONNX Runtime refuses the model, and DeviceError when the device's provider
    does not take the model: there is no silent fall-back to another.
    """
    chosen = _session_options(model, device, options)
    first = device.providers[0][0]
    serialized = model.SerializeToString()
    # A plug-in is chosen by its device, and then providers may not be named.
    plugin = next((provider for provider, _ in device.providers if provider in PLUGINS), None)
    providers = [
        (provider, dict(choices) | _options_for(provider, model, serialized, options, captures=captures))
        for provider, choices in device.providers
    ]
    if plugin:
        chosen.add_provider_for_devices([plugin_devices(plugin)[device.gpu_id]], {})
    try:
        with GATE.call(), interruptible(f"opening {name}", lambda: chosen.set_load_cancellation_flag(True)):
            session = onnxruntime.InferenceSession(
                serialized, sess_options=chosen, providers=None if plugin else providers, enable_fallback=0
            )
    except Exception as error:  # its errors have no common base
        if device.is_gpu and type(error) is RuntimeError:  # of the provider, outside of what ONNX Runtime says of models
            raise DeviceError(f"{first} did not start on {device.name}: {runtime_reason(error)}") from error
        raise BrokenAvatar(f"{name}: ONNX Runtime refuses it: {runtime_reason(error)}") from error
    # The session keeps the serialized model, as much memory as the weights, to fall back to other providers, which it must not.
    session._model_bytes = None
    if session.get_providers()[0] != first:
        raise DeviceError(f"{first} did not start on {device.name}; ONNX Runtime offers {session.get_providers()[0]} instead")
    if device.is_gpu:
        _refuse_heavy_cpu_nodes(session, device)
    return session


# In place of the number of a graph: the run replays none.
NOT_CAPTURED = "-1"


@contextmanager
def run_options(name: str, *, graph: str = NOT_CAPTURED, captures: bool = False) -> Iterator[onnxruntime.RunOptions]:
    """Gives options for one run of a session of the file `name`. Cutting this thread's work short ends the run.

    `graph`: the number of the captured CUDA graph that the run replays. `captures`: it is captured in this run.
    """
    options = onnxruntime.RunOptions()
    options.log_severity_level = SILENT
    # ONNX Runtime's Python layer asks for it in every run, and an entry that is not there costs it an exception.
    options.add_run_config_entry("gpu_graph_id", graph)

    def end() -> None:
        options.terminate = True

    with GATE.capture() if captures else GATE.call(), interruptible(f"running {name}", end):
        yield options


def _options_for(
    provider: str, model: onnx.ModelProto, serialized: bytes, options: OnnxSection, *, captures: bool
) -> dict[str, str]:
    if provider == CUDA and captures:
        return {"enable_cuda_graph": "1"}
    if provider != TENSORRT:
        return {}
    is_float16 = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return dict(tensorrt_options(serialized, options.tensorrt_cache, float16=is_float16))


def _refuse_heavy_cpu_nodes(session: onnxruntime.InferenceSession, device: Device) -> None:
    # Shape arithmetic belongs on the CPU, so session.disable_cpu_ep_fallback would refuse good graphs.
    for subgraph in session.get_provider_graph_assignment_info():
        stray = sorted({node.op_type for node in subgraph.get_nodes()} & HEAVY_OPERATORS)
        if subgraph.ep_name == CPU and stray:
            raise DeviceError(f"{device.name}: ONNX Runtime would run {', '.join(stray)} on the CPU")


def _session_options(model: onnx.ModelProto, device: Device, options: OnnxSection) -> Any:
    chosen = onnxruntime.SessionOptions()
    light = not any(node.op_type in HEAVY_OPERATORS for node in model.graph.node)
    # For a network that only copies and scales, waking other cores costs more than they save.
    chosen.intra_op_num_threads = options.intra_op_threads or (1 if light else usable_cores())
    chosen.log_severity_level = SILENT
    if options.inter_op_threads > 1:
        chosen.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        chosen.inter_op_num_threads = options.inter_op_threads
    # Sound processing, gRPC and other avatars need the cores too: a spinning pool would take them away.
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chosen.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if device.is_gpu:
        chosen.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return chosen
