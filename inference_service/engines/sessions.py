"""ONNX Runtime sessions: their options, and its errors in our words."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from avatar_kit.errors import BrokenAvatar
from inference_service.engines.devices import CPU, Device, DeviceError
from inference_service.settings import OnnxSection

LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    ValueError,
)
RUN_ERRORS = (ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.RuntimeException, ort_errors.EPFail, ValueError)

# Operators that do the work: they must not end up on the CPU when a GPU was asked for, and are worth sharing out among cores.
HEAVY_OPERATORS = frozenset({"Conv", "FusedConv", "ConvTranspose", "MatMul", "Gemm", "Resize"})


def open_session(model: onnx.ModelProto, device: Device, options: OnnxSection, *, what: str) -> onnxruntime.InferenceSession:
    """A session of `model` on `device`.

    Raises BrokenAvatar, naming `what`, when ONNX Runtime refuses the model, and DeviceError when the device's provider does not
    take it over: no silent fall-back to another.
    """
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            sess_options=_session_options(model, device, options),
            providers=[(name, dict(choices)) for name, choices in device.providers],
        )
    except LOAD_ERRORS as error:
        raise BrokenAvatar([f"{what}: ONNX Runtime refuses it ({type(error).__name__})"]) from error
    # The session keeps the serialized model to fall back to other providers, which it may not: as much memory as the weights.
    session._model_bytes = None
    first = device.providers[0][0]
    if session.get_providers()[0] != first:
        raise DeviceError(f"{first} did not start on {device.name}; ONNX Runtime offers {session.get_providers()[0]} instead")
    if device.is_gpu:
        _refuse_heavy_cpu_nodes(session, device)
    return session


def _refuse_heavy_cpu_nodes(session: onnxruntime.InferenceSession, device: Device) -> None:
    # Shape arithmetic belongs on the CPU, so session.disable_cpu_ep_fallback would refuse good graphs.
    for subgraph in session.get_provider_graph_assignment_info():
        stray = sorted({node.op_type for node in subgraph.get_nodes()} & HEAVY_OPERATORS)
        if subgraph.ep_name == CPU and stray:
            raise DeviceError(f"{device.name}: ONNX Runtime would run {', '.join(stray)} on the CPU")


def _session_options(model: onnx.ModelProto, device: Device, options: OnnxSection) -> Any:
    chosen = onnxruntime.SessionOptions()
    light = not any(node.op_type in HEAVY_OPERATORS for node in model.graph.node)
    # To copy and scale, waking other cores costs more than they help.
    chosen.intra_op_num_threads = options.intra_op_threads or (1 if light else 0)
    chosen.log_severity_level = 3
    if options.inter_op_threads > 1:
        chosen.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        chosen.inter_op_num_threads = options.inter_op_threads
    # Cores are shared with sound processing, gRPC and other avatars: a spinning pool would take them away.
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    chosen.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if device.is_gpu:
        chosen.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return chosen
