"""Compiles and runs models with OpenVINO, and turns its errors into ours. It is loaded when it is first needed."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import platform
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_kit.cores import usable_cores
from avatar_kit.errors import BrokenAvatar, cut
from avatar_kit.onnx_io import EncoderIO
from inference_service.engines.devices import DeviceError
from inference_service.engines.engine import EngineError
from inference_service.engines.load_cache import NOTHING_KEPT, LoadCache, cache_key
from inference_service.graphs.cpu_form import Form, in_cpu_form
from inference_service.limited_threads import interruptible
from inference_service.settings import OnnxSection

Precision: TypeAlias = Literal["float32", "bfloat16"]

_CALLS_HOME = ("openvino.tools.ovc", "openvino_telemetry")
_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16"})
_HINTS = {"float32": "f32", "bfloat16": "bf16"}
# OpenVINO ends a run between two operators: one that goes on for ever inside an operator would never end.
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
_LONGEST_REASON = 420
log = logging.getLogger(__name__)
_PLACE = re.compile(r"(Exception from|Check '.*?' failed at) src/\S+:\d+:?|Caught exception:")


def is_installed() -> bool:
    """Tells if the package is there, without loading it."""
    return importlib.util.find_spec("openvino") is not None


@cache
def core() -> Any:
    """Returns OpenVINO's one entry, and loads it first. Raises DeviceError where it is missing or cannot be loaded."""
    try:
        made = _openvino().Core()
        devices = made.available_devices
    except ImportError as error:
        raise DeviceError(f"OpenVINO is not installed, or cannot be loaded ({error}): install the extra [cpu]") from error
    except Exception as error:  # whatever its libraries raise
        raise DeviceError(f"OpenVINO cannot start: {reason(error)}") from error
    if "CPU" not in devices:
        raise DeviceError(f"OpenVINO has no CPU device here, only {', '.join(devices) or 'none'}")
    return made


@cache
def _openvino() -> Any:
    """Imports OpenVINO, without its converter of models, which would tell its makers of each import. Raises ImportError."""
    silenced = [name for name in _CALLS_HOME if name not in sys.modules]
    sys.modules.update(dict.fromkeys(silenced))  # type: ignore[arg-type]  # None: importing it fails
    try:
        return importlib.import_module("openvino")  # takes a tenth of a second, and is not there on every processor
    finally:
        for name in silenced:
            del sys.modules[name]


def processor_has_bfloat16() -> bool:
    """Tells if this processor multiplies bfloat16 by itself; False where the system does not say."""
    return not _BFLOAT16.isdisjoint(processor().split())


def processor() -> str:
    """Returns all that the system says of the processor's make and instructions, in one line."""
    try:
        lines = re.findall(r"^(?:model name|flags|Features)\s*:(.*)$", _CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        lines = []
    return " ".join([platform.machine(), *dict.fromkeys(lines)])  # the same lines for each core


def arithmetic(precision: Precision) -> str:
    """Returns the name of what computes, as in `Engine.arithmetic`."""
    return f"openvino-{metadata.version('openvino')}/{precision}"


def compiled(
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    output: str,
    precision: Precision,
    options: OnnxSection,
    name: str,
    form: Form | None = None,
    cache: LoadCache = NOTHING_KEPT,
    digest: str = "",
) -> Any:
    """Compiles a model, which it changes, for inputs of these shapes (-1: any size) and one output.

    With a `form` it is brought into that first. With the `digest` of the model, what was compiled is kept in `cache`. Raises
    BrokenAvatar, naming the file `name`, when OpenVINO refuses the model, and DeviceError.
    """
    outputs = [value for value in model.graph.output if value.name == output]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    if stray := sorted(_operators(model) & _CONTROL_FLOW):
        raise BrokenAvatar(f"{name}: has {', '.join(stray)}, which OpenVINO could not be stopped in: set engine to onnxruntime")
    entry = core()
    try:
        with interruptible(f"opening {name}", _cannot_end):
            properties = _properties(precision, options)
            if not (digest and cache.keeps):
                return _compiled(entry, in_cpu_form(model, form, name), shapes, properties)
            key = cache_key(
                "openvino", metadata.version("openvino"), processor(), digest, sorted(shapes.items()), output, properties, form
            )
            if (kept := cache.get(key)) is not None:
                try:
                    return entry.import_model(kept, "CPU", properties)
                except RuntimeError as error:
                    log.warning("%s is compiled anew: %s", name, reason(error))
            network = _compiled(entry, in_cpu_form(model, form, name), shapes, properties)
            cache.put(key, network.export_model().getvalue())
            return network
    except RuntimeError as error:
        raise BrokenAvatar(f"{name}: OpenVINO refuses it: {reason(error)}") from error


def _compiled(entry: Any, model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], properties: Mapping[str, object]) -> Any:
    read = entry.read_model(model.SerializeToString())
    read.reshape({key: list(shape) for key, shape in shapes.items()})
    return entry.compile_model(read, "CPU", properties)


def bind(request: Any, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Lets a request read and write these arrays in place. They must outlive it."""
    tensor = _openvino().Tensor
    for name, array in arrays.items():
        request.set_tensor(name, tensor(array, shared_memory=True))


def run(request: Any, name: str) -> None:
    """Runs a request of the file `name`. Cutting this thread's work short ends the run. Raises RuntimeError."""
    with interruptible(f"running {name}", request.cancel):
        request.start_async()  # only such a run can be cancelled
        request.wait()


def encoder_run(
    model: onnx.ModelProto, io: EncoderIO, precision: Precision, options: OnnxSection, name: str
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Compiles an audio encoder, and returns a function that runs it: [rows, 1, 80, 16] -> [rows, 512]. It raises EngineError.

    Raises BrokenAvatar and DeviceError.
    """
    shapes = {io.mel: (io.batch or -1, 1, 80, 16)}
    network = compiled(model, shapes, output=io.rows, precision=precision, options=options, name=name)

    def encode(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        read = np.ascontiguousarray(windows)  # in place, so it must be kept until the run has ended
        try:
            request = network.create_infer_request()  # takes some microseconds
            bind(request, {io.mel: read})
            run(request, name)
            rows: NDArray[np.float32] = request.get_output_tensor(0).data.copy()
        except Exception as error:
            raise EngineError(f"{name}: {reason(error)}") from error
        return rows

    return encode


def reason(error: Exception) -> str:
    """Returns OpenVINO's message in one line, without source locations."""
    return cut(" ".join(_PLACE.sub("", str(error)).split()) or type(error).__name__, _LONGEST_REASON)


def _properties(precision: Precision, options: OnnxSection) -> dict[str, object]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": options.intra_op_threads or usable_cores(),
        "NUM_STREAMS": 1,
        # Two processes on one machine would be tied to the same cores.
        "ENABLE_CPU_PINNING": False,
    }


def _operators(model: onnx.ModelProto) -> set[str]:
    functions = (node.op_type for function in model.functions for node in function.node)
    return {*(node.op_type for node in model.graph.node), *functions}


def _cannot_end() -> None:
    """Leaves a compilation alone: OpenVINO has no way to end one."""
