"""TensorRT's options, and what is said where it is missing: it needs a GPU, and libraries that are not installed here."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import onnxruntime
import pytest

from inference_service.engines import devices
from inference_service.engines.devices import CPU, CUDA, TENSORRT, DeviceError, find_devices
from inference_service.engines.gpu_memory import GpuMemory
from inference_service.engines.plugins import PLUGINS, TENSORRT_RTX, PluginError, plugin_devices
from inference_service.engines.tensorrt import tensorrt_options
from inference_service.settings import GpuSection, OnnxSection


def test_networks_that_differ_in_weights_have_folders_of_their_own(tmp_path: Path) -> None:
    first, again, other = (tensorrt_options(model, tmp_path / "cache", float16=False) for model in (b"1", b"1", b"2"))
    assert first == again
    assert first["trt_engine_cache_path"] != other["trt_engine_cache_path"]
    assert first["trt_timing_cache_path"] == other["trt_timing_cache_path"] == str(tmp_path / "cache")
    assert Path(first["trt_engine_cache_path"]).is_dir()


def test_without_a_folder_nothing_is_kept() -> None:
    assert tensorrt_options(b"1", None, float16=True) == {"trt_fp16_enable": "1"}


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match=r"onnx\.tensorrt_cache: .* cannot be written"):
        tensorrt_options(b"1", tmp_path / "file" / "cache", float16=False)


@pytest.mark.parametrize(
    ("named", "used"),
    [
        ((TENSORRT,), [TENSORRT, CUDA]),
        ((TENSORRT, CUDA), [TENSORRT, CUDA]),
        ((), [CUDA]),
    ],
)
def test_cuda_takes_what_tensorrt_leaves(monkeypatch: pytest.MonkeyPatch, named: tuple[str, ...], used: list[str]) -> None:
    """On the CPU such operators would fetch all crops from the GPU in each run."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(devices, "visible_gpus", lambda: [GpuMemory(0, "a GPU", 0, 0, None)])
    (device,) = find_devices(GpuSection(), OnnxSection(providers=named))
    assert [name for name, _ in device.providers] == used
    assert all(options["device_id"] == 0 for _, options in device.providers)


@pytest.mark.skipif(find_spec(PLUGINS[TENSORRT_RTX].module) is not None, reason="the plug-in is installed")
def test_a_plugin_that_is_not_installed_is_an_error_that_says_what_it_needs() -> None:
    with pytest.raises(DeviceError, match=r"onnx\.providers: NvTensorRTRTXExecutionProvider needs the package onnx"):
        find_devices(GpuSection(), OnnxSection(providers=(TENSORRT_RTX,)))


@pytest.mark.parametrize("library", [None, b"not a library"], ids=["missing", "broken"])
def test_a_plugin_whose_library_cannot_be_loaded_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: bytes | None
) -> None:
    """A package as the real one is, with a library that ONNX Runtime refuses: where there is no driver, it does so too."""
    module = f"plugin_{library is None}".lower()
    path = tmp_path / "libplugin.so"
    if library is not None:
        path.write_bytes(library)
    (tmp_path / f"{module}.py").write_text(f"def get_library_path():\n    return {str(path)!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PLUGINS, "Other", replace(PLUGINS[TENSORRT_RTX], module=module))
    with pytest.raises(PluginError, match=r"Other cannot be loaded: .*; it needs an NVIDIA GPU of compute capability"):
        plugin_devices("Other")
    assert "CPUExecutionProvider" in [device.ep_name for device in onnxruntime.get_ep_devices()]
