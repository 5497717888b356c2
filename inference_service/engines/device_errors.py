"""Tells errors of a device from those of a network, by the words in which ONNX Runtime passes them on."""

from __future__ import annotations

import re

_NO_MEMORY = re.compile(
    r"out of memory|failed to allocate memory|is smaller than requested bytes|CUDA failure 2\b"
    r"|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED|CUDA_ERROR_OUT_OF_MEMORY",
    re.IGNORECASE,
)
# After these every later call of the process fails too (CUDA's "sticky" errors), or there is no device any more.
_LOST = re.compile(
    r"CUDA (failure|error) (46|100|214|7(00|02|1[0-9]|20)|8[0-9]{2}|999)\b|illegal memory access|unspecified launch failure"
    r"|device-side assert|uncorrectable ECC|GPU is lost|no CUDA-capable device",
    re.IGNORECASE,
)


def is_out_of_memory(error: Exception) -> bool:
    """Returns True where the device had no room for a run; a smaller or a later one may fit."""
    return _NO_MEMORY.search(str(error)) is not None


def is_device_lost(error: Exception) -> bool:
    """Returns True where no run of this process on that device can succeed any more."""
    return _LOST.search(str(error)) is not None
