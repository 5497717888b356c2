"""Reads from the NVIDIA driver which GPUs there are, and how busy and full they are.

The driver's library counts GPUs by their place on the PCI bus, and knows nothing of CUDA_VISIBLE_DEVICES. CUDA counts those that
it names, in its order; without it the fastest first, unless CUDA_DEVICE_ORDER says otherwise (CUDA's programming guide,
environment variables). Here GPUs have CUDA's numbers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GpuMemory:
    """One GPU as the driver sees it now."""

    index: int  # CUDA's
    name: str
    total_bytes: int
    used_bytes: int
    utilization_percent: int | None  # None where the driver does not know, as for a part of a GPU


def visible_gpus() -> list[GpuMemory]:
    """Lists all GPUs that this process may use, in CUDA's order; none without a driver."""
    import pynvml

    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # before CUDA is first used

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount())]
        uuids = [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        seen = places_seen_by_cuda(uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return [_read(pynvml, index, handles[place]) for index, place in enumerate(seen)]
    finally:
        pynvml.nvmlShutdown()


def places_seen_by_cuda(uuids: Sequence[str], named: str | None) -> list[int]:
    """Returns the driver's places of the GPUs that CUDA sees, in its order: those `named` by CUDA_VISIBLE_DEVICES; None: all.

    It names them by place or by the beginning of their UUID. The first that is not there ends the list. Parts of a GPU (MIG) are
    not told apart: then all GPUs count.
    """
    if named is None or "MIG-" in named:
        return list(range(len(uuids)))
    places: list[int] = []
    for name in map(str.strip, named.split(",")):
        fits = [place for place, uuid in enumerate(uuids) if name == str(place) or (name[:4] == "GPU-" and uuid.startswith(name))]
        if len(fits) != 1:
            break
        places += fits
    return places


def _read(pynvml: Any, index: int, handle: Any) -> GpuMemory:
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
