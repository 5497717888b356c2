"""The devices that networks run on: GPUs by number, or the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Before onnxruntime is imported: a server must not phone home.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

from inference_service.engines.gpu_memory import GpuMemory, visible_gpus
from inference_service.engines.plugins import PLUGINS, TENSORRT_RTX, PluginError, plugin_devices
from inference_service.settings import GpuSection, OnnxSection

onnxruntime.disable_telemetry_events()
# For ONNX Runtime's own log lines. Every fault is raised as an exception too, but a library that a GPU's provider lacks, which
# an error line alone names. Its warnings tell operators nothing, such as that CUDA's provider is no plug-in.
SILENT, ERRORS = 4, 3

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
GPU_PROVIDERS = frozenset({CUDA, TENSORRT, TENSORRT_RTX})
CPU_DEVICE_ID = -1
MEMORY_LIMIT = "gpu_mem_limit"  # of a session, in bytes


class DeviceError(RuntimeError):
    """A device or execution provider that the configuration asks for is missing. The message says what to do."""


@dataclass(frozen=True)
class Device:
    """One GPU, or the CPU (gpu_id -1)."""

    gpu_id: int
    name: str
    providers: tuple[tuple[str, Mapping[str, Any]], ...] = field(repr=False)

    @property
    def is_gpu(self) -> bool:
        """Tells if a GPU computes."""
        return self.providers[0][0] in GPU_PROVIDERS

    @property
    def replays_graphs(self) -> bool:
        """Tells if its runs can be captured as CUDA graphs."""
        return self.providers[0][0] == CUDA

    @property
    def memory(self) -> tuple[str, int]:
        """The device of its tensors by ONNX Runtime's names: kind and number."""
        return ("cuda", self.gpu_id) if self.is_gpu else ("cpu", 0)

    @property
    def holds_tensors(self) -> bool:
        """Tells if crops can be kept in a GPU's memory: ONNX Runtime's own providers can, a plug-in gets them with each run."""
        return self.is_gpu and self.providers[0][0] not in PLUGINS


THE_CPU = Device(CPU_DEVICE_ID, "CPU", ((CPU, {}),))
"""The CPU with ONNX Runtime's own provider."""


def find_devices(gpus: GpuSection, onnx: OnnxSection) -> list[Device]:
    """Finds the devices that the configuration asks for, at least one.

    Raises DeviceError when a provider is not in the installed onnxruntime or a GPU is missing. There is no silent fall-back.
    """
    installed = onnxruntime.get_available_providers()
    for provider in onnx.providers:
        if provider in PLUGINS:
            try:
                plugin_devices(provider)
            except PluginError as error:
                raise DeviceError(f"onnx.providers: {error}") from error
        elif provider not in installed:
            raise DeviceError(f"onnx.providers: {provider} is not in the installed onnxruntime, which has {', '.join(installed)}")
    by_plugin = not PLUGINS.keys().isdisjoint(onnx.providers)
    wanted = CUDA in installed or by_plugin if gpus.enabled == "auto" else gpus.enabled
    if not wanted:
        asked_for = [provider for provider in onnx.providers if provider in GPU_PROVIDERS]
        if asked_for:
            raise DeviceError(f"onnx.providers asks for {asked_for[0]}, but gpus.enabled is {str(gpus.enabled).lower()}")
        onnxruntime.set_default_logger_severity(SILENT)
        return [Device(CPU_DEVICE_ID, "CPU", tuple((name, {}) for name in onnx.providers or [CPU]))]
    if CUDA not in installed and not by_plugin:
        raise DeviceError(
            "gpus.enabled is true, but the installed onnxruntime has no CUDA: install the extra [gpu] instead of [cpu], "
            "or set gpus.enabled=false to run on the CPU"
        )
    onnxruntime.set_default_logger_severity(ERRORS)
    if CUDA in installed:
        onnxruntime.preload_dlls()
    return _find_gpus(gpus, onnx)


def _find_gpus(gpus: GpuSection, onnx: OnnxSection) -> list[Device]:
    present = visible_gpus()
    count = gpus.count or len(present)
    if not present or count > len(present):
        raise DeviceError(
            f"gpus.count asks for {gpus.count or 'all'} GPUs, but {len(present)} are visible: check nvidia-smi, the NVIDIA "
            "container toolkit and CUDA_VISIBLE_DEVICES, or set gpus.enabled=false to run on the CPU"
        )
    limit = int(gpus.memory_gb_per_gpu * 2**30)
    names = [*(onnx.providers or [CUDA])]
    if TENSORRT in names and CUDA not in names:
        # TensorRT leaves some operators to others, such as Gather of uint8: the CPU would fetch all crops in each run.
        names.insert(names.index(TENSORRT) + 1, CUDA)
    return [
        Device(gpu.index, gpu.name, tuple((name, _gpu_options(name, gpu, limit, onnx)) for name in names))
        for gpu in present[:count]
    ]


def _gpu_options(provider: str, gpu: GpuMemory, limit_bytes: int, onnx: OnnxSection) -> Mapping[str, Any]:
    if provider not in GPU_PROVIDERS or provider in PLUGINS:
        return {}
    options: dict[str, Any] = {"device_id": gpu.index}
    if provider == CUDA:
        # HEURISTIC: an exhaustive search would run again for every new batch size, inside a request.
        options |= {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
        options["prefer_nhwc"] = int(onnx.prefer_nhwc)
        if limit_bytes:
            options[MEMORY_LIMIT] = limit_bytes
    return options
