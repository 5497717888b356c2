"""Reads from the NVIDIA driver which GPUs there are, and how busy and full they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GpuMemory:
    """One GPU as the driver sees it now."""

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    utilization_percent: int | None  # None where the driver does not know, as for a part of a GPU


def visible_gpus() -> list[GpuMemory]:
    """Lists all GPUs that this process may use, in the driver's order; none without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _read(pynvml: Any, index: int) -> GpuMemory:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        percent = int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        percent = None
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return GpuMemory(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        utilization_percent=percent,
    )
