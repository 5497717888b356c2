"""Where TensorRT keeps its programs. It is not here itself: it needs a GPU and libraries that no package index has."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_service.engines.devices import DeviceError
from inference_service.engines.tensorrt import tensorrt_options


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
