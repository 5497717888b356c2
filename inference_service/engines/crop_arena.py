"""Keeps crops of all avatars of a device in one allocation there, as many as a budget allows.

Crops that a run needs and that are missing are uploaded. They stay while there is room, or where others have not been used for
so long that they are likely of an avatar or of a part of a clip that is over. The others are there for their run alone: an avatar
in use goes through its clip again and again, so if simply the one used least recently had to go, a clip that does not fit as a
whole would lose each crop shortly before it is used.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import MOUTH_SIZE
from inference_service.engines.device_copies import DeviceCopies, Placed
from inference_service.engines.devices import Device, DeviceError
from inference_service.engines.shared_memory import SharedMemory

CROP_BYTES = 3 * MOUTH_SIZE * MOUTH_SIZE
# A crop may go when so many times the number of slots have been lent since its last use.
IDLE_ROUNDS = 2
# Slots for crops that are there for a run alone: of a share of all slots, so many at most.
PASSING_SHARE, PASSING_SLOTS = 0.25, 128


class CropArena:
    """Slots of 307,200 bytes in one allocation on a device. Thread-safe."""

    def __init__(self, device: Device, max_bytes: int) -> None:
        """Allocates as many slots as fit. Raises DeviceError."""
        count = max_bytes // CROP_BYTES
        shape = (count, 3, MOUTH_SIZE, MOUTH_SIZE)
        self._copies = DeviceCopies(device)
        try:
            self._memory = self._copies.allocate(shape)
        except Exception as error:  # of the runtime, without a common base
            asked = f"capacity.crops_gb_per_gpu: {device.name} has no {count * CROP_BYTES / 1e9:.1f} GB"
            raise DeviceError(f"{asked}: {error}") from error
        self.bank = Placed(self._memory.data_ptr(), shape)
        self.memory = SharedMemory(count * CROP_BYTES)
        self._lock = threading.Lock()
        passing = min(PASSING_SLOTS, int(count * PASSING_SHARE))
        self._free = list(range(count - passing))  # a heap: neighbours are uploaded together
        self._passing = list(range(count - passing, count))  # a heap
        self._first_passing = count - passing
        self._held: OrderedDict[tuple[object, int], int] = OrderedDict()  # slots by owner and frame, the last used at the end
        self._kept: set[int] = set()  # their slots
        self._users: Counter[int] = Counter()  # runs that use a slot now
        self._used_at: dict[int, int] = {}  # of slots held
        self._lent = 0  # so far
        self._gone: deque[object] = deque()  # owners

    @property
    def free(self) -> int:
        """Slots that no crop has taken."""
        with self._locked():
            return len(self._free)

    def held(self, owner: object) -> int:
        """Returns the number of the owner's crops that stay here."""
        with self._locked():
            return sum(key[0] is owner for key in self._held)

    @contextmanager
    def lent(
        self, owner: object, frames: Sequence[int], crop: Callable[[int], NDArray[np.uint8]]
    ) -> Iterator[NDArray[np.int64] | None]:
        """Lends slots with the crops of an owner's frames until the end of the block, [n]. None: too many slots are lent.

        `crop` returns a frame's crop, [3, 320, 320], to be uploaded where it is missing.
        """
        with self._locked():
            slots = self._slots(owner, dict.fromkeys(frames), crop)
        if slots is None:
            yield None
            return
        try:
            yield np.array([slots[frame] for frame in frames], np.int64)
        finally:
            with self._locked():
                self._give_back(slots.values())

    def hold(self, owner: object, frame: int, crop: NDArray[np.uint8]) -> None:
        """Uploads a crop that a run may need, if a slot is free."""
        with self._locked():
            if self._free and (owner, frame) not in self._held:
                slot = heapq.heappop(self._free)
                self._copies.upload(crop, self._address(slot))
                self._keep(owner, frame, slot)
                self._used_at[slot] = self._lent

    def forget(self, owner: object) -> None:
        """Frees the slots of an owner, none of whose slots are lent. Python may call this in the middle of anything."""
        self._gone.append(owner)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            while self._gone:
                owner = self._gone.popleft()
                for key in [key for key in self._held if key[0] is owner]:
                    slot = self._held.pop(key)
                    self._kept.remove(slot)
                    heapq.heappush(self._free, slot)
            yield

    def _keep(self, owner: object, frame: int, slot: int) -> None:
        self._held[owner, frame] = slot
        self._kept.add(slot)

    def _slots(self, owner: object, frames: Iterable[int], crop: Callable[[int], NDArray[np.uint8]]) -> dict[int, int] | None:
        """Returns the slot of each frame, for a run, with its crop in it."""
        slots: dict[int, int] = {}
        missing: list[int] = []
        for frame in frames:
            self._lent += 1
            if (owner, frame) in self._held:
                self._held.move_to_end((owner, frame))
                slots[frame] = self._held[owner, frame]
                self._use(slots[frame])
            else:
                missing.append(frame)
        new: dict[int, int] = {}
        for frame in missing:
            slot = self._slot_to_keep()
            if slot is None and not self._passing:
                self._give_back([*slots.values(), *new.values()])
                return None
            new[frame] = heapq.heappop(self._passing) if slot is None else slot
            self._use(new[frame])
        try:
            self._upload(new, crop)
        except BaseException:
            self._give_back([*slots.values(), *new.values()])
            raise
        for frame, slot in new.items():
            if slot < self._first_passing:
                self._keep(owner, frame, slot)
        return slots | new

    def _slot_to_keep(self) -> int | None:
        """Returns a slot for a crop that stays: a free one, or that of a crop that was not used for long."""
        if self._free:
            return heapq.heappop(self._free)
        if not self._held:
            return None
        oldest, slot = next(iter(self._held.items()))
        if self._users[slot] or self._lent - self._used_at[slot] <= IDLE_ROUNDS * self.bank.shape[0]:
            return None
        del self._held[oldest]
        self._kept.remove(slot)
        return slot

    def _use(self, slot: int) -> None:
        self._users[slot] += 1
        self._used_at[slot] = self._lent

    def _give_back(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._users[slot] -= 1
            if not self._users[slot] and slot not in self._kept:
                heapq.heappush(self._free if slot < self._first_passing else self._passing, slot)

    def _upload(self, slots: dict[int, int], crop: Callable[[int], NDArray[np.uint8]]) -> None:
        """Uploads crops to their slots, those in neighbouring slots together."""
        frames = sorted(slots, key=slots.__getitem__)
        while frames:
            first = slots[frames[0]]
            count = next((place for place, frame in enumerate(frames) if slots[frame] != first + place), len(frames))
            self._copies.upload(np.stack([crop(frame) for frame in frames[:count]]), self._address(first))
            frames = frames[count:]

    def _address(self, slot: int) -> int:
        return self.bank.address + slot * CROP_BYTES
