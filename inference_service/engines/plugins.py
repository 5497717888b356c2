"""Execution providers that are packages of their own: they are registered with ONNX Runtime when the configuration names them.

TensorRT-RTX is the one that is known here. It has not been run with this service yet, for want of such a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime

TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"


class PluginError(RuntimeError):
    """A plug-in that is missing, or cannot run here. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A provider in a package of its own, whose module says where its library is."""

    module: str
    package: str
    needs: str


PLUGINS = {
    TENSORRT_RTX: Plugin(
        "onnxruntime_ep_nv_tensorrt_rtx",
        "onnxruntime-ep-nv-tensorrt-rtx-cu13",
        "an NVIDIA GPU of compute capability 7.5, 8.6, 8.9 or 12.0 and a driver for CUDA 13",
    )
}


def plugin_devices(provider: str) -> Sequence[Any]:
    """Registers a plug-in of PLUGINS, unless it is, and returns its devices (OrtEpDevice), at least one. Raises PluginError."""
    plugin = PLUGINS[provider]
    devices = _devices(provider)
    if not devices:
        try:
            module = importlib.import_module(plugin.module)
        except ImportError as error:
            raise PluginError(f"{provider} needs the package {plugin.package}, and {plugin.needs}") from error
        try:
            onnxruntime.register_execution_provider_library(provider, module.get_library_path())
        except Exception as error:  # the runtime's errors have no common base
            raise PluginError(f"{provider} cannot be loaded: {_last_words(error)}; it needs {plugin.needs}") from error
        devices = _devices(provider)
    if not devices:
        raise PluginError(f"{provider} finds no device: it needs {plugin.needs}")
    return devices


def _devices(provider: str) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]


def _last_words(error: Exception) -> str:
    """Returns the part of the runtime's message that names the cause, without the path of the library."""
    return str(error).partition("with error: ")[2] or str(error)
