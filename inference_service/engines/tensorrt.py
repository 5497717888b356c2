"""TensorRT compiles each network into a program for one GPU, which takes minutes: where it keeps them, and in what precision.

Its own names of kept programs do not depend on weights, and the avatars of a family differ in nothing else: each network has a
folder of its own here. TensorRT has not been run with this service yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from inference_service.engines.devices import DeviceError


def tensorrt_options(model: bytes, cache: Path | None, *, float16: bool) -> Mapping[str, str]:
    """Returns the options of ONNX Runtime's TensorRT provider for a serialized model.

    `cache`: the folder of kept programs; None: none are kept. Raises DeviceError when it cannot be written.
    """
    options = {"trt_fp16_enable": str(int(float16))}
    if cache is None:
        return options
    own = cache / hashlib.sha256(model).hexdigest()[:32]
    try:
        own.mkdir(parents=True, exist_ok=True)
        probe = own / "writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DeviceError(f"onnx.tensorrt_cache: {cache} cannot be written: {error.strerror}") from error
    return options | {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(own),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),  # of kernels, whatever the weights
    }
