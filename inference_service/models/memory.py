"""Measures the memory that loads take: the growth of the process, or on a GPU the growth of the memory in use."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

from inference_service.engines.crops import CropBank
from inference_service.engines.devices import Device
from inference_service.engines.gpu_memory import visible_gpus


class Taken:
    """The memory that one load took."""

    def __init__(self) -> None:
        self.bytes = 0  # known when the load has ended
        self.most_at_once = 1  # loads under way at the same time, this one among them


class MemoryMeter:
    """Measures loads, from any thread. Loads at the same time share the memory that was taken equally."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: list[Taken] = []
        self._banks: weakref.WeakSet[CropBank] = weakref.WeakSet()

    def leave_out(self, bank: CropBank) -> None:
        """Leaves the crops in `bank` out of the measurement: they are counted apart, and may be made meanwhile."""
        with self._lock:
            self._banks.add(bank)

    @contextmanager
    def measured(self, devices: Sequence[Device]) -> Iterator[Taken]:
        """Measures its block, which loads an avatar on `devices`."""
        taken = Taken()
        with self._lock:
            self._under_way.append(taken)
            for each in self._under_way:
                each.most_at_once = max(each.most_at_once, len(self._under_way))
            before = self._used(devices)
        try:
            yield taken
            with self._lock:
                taken.bytes = max(0, self._used(devices) - before) // taken.most_at_once
        finally:
            with self._lock:
                self._under_way.remove(taken)

    def _used(self, devices: Sequence[Device]) -> int:
        crops = sum(bank.device_bytes for bank in self._banks if bank.device in devices)
        return _used_bytes(devices) - crops


def _used_bytes(devices: Sequence[Device]) -> int:
    if not devices[0].is_gpu:
        return int(psutil.Process().memory_info().rss)
    used = {gpu.index: gpu.used_bytes for gpu in visible_gpus()}
    return sum(used.get(device.gpu_id, 0) for device in devices)
