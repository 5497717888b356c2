"""Decides on which devices an avatar is loaded, and which other avatars are unloaded for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import psutil

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.fitting import CROP_BORDER_BYTES
from inference_service.engines.crop_arena import CROP_BYTES
from inference_service.engines.devices import Device
from inference_service.models.model import LoadedModel, memory_of_all
from inference_service.settings import InferenceSettings
from service_kit.errors import ResourceExhausted
from service_kit.leases import Lease, first_to_go

RETRY_WHEN_FULL_MS = 1000


class Placement:
    """Keeps to the limits of number and memory. Used from the event loop only."""

    def __init__(
        self,
        devices: Sequence[Device],
        settings: InferenceSettings,
        *,
        loaded: Callable[[], Sequence[Lease[LoadedModel]]],
        former: Callable[[], Sequence[Lease[LoadedModel]]],
        evict: Callable[[str, str], None],
    ) -> None:
        """`loaded` returns the avatars loaded now; `evict` unloads one, named by its id, for a reason.

        `former` returns the replaced ones that sessions go on with: they take memory, and make room for nobody.
        """
        self.devices = devices
        self.max_models = settings.capacity.max_models
        self.max_bytes = int(settings.capacity.max_memory_gb * 2**30)
        self._settings = settings
        self._loaded = loaded
        self._former = former
        self._evict = evict
        self._turn = 0

    @property
    def memory_bytes(self) -> int:
        """Measured memory of all loaded avatars, and of replaced ones that sessions go on with."""
        return memory_of_all(_models({*self._loaded(), *self._former()}))

    def devices_for(self, avatar_id: str, *, wanted_gpu: int | None, preferred_gpu: int) -> Sequence[Device]:
        """Chooses the devices for the avatar: the wanted one if there is such, or the preferred one, or by the strategy.

        `preferred_gpu` below 0: none. Raises BrokenAvatar when there is no such GPU, and ResourceExhausted.
        """
        if self._settings.gpus.allow_multi_gpu_models:
            return self.devices
        if found := [device for device in self.devices if device.gpu_id == wanted_gpu]:
            return found
        if preferred_gpu >= 0 and self.devices[0].is_gpu:
            found = [device for device in self.devices if device.gpu_id == preferred_gpu]
            if not found:
                raise BrokenAvatar([f"its preferred_gpu is {preferred_gpu}, but there are GPUs 0 to {len(self.devices) - 1}"])
            return found
        strategy = self._settings.gpus.assignment_strategy
        if strategy == "round-robin":
            self._turn += 1
            return [self.devices[(self._turn - 1) % len(self.devices)]]
        taken = {device.gpu_id: self._bytes_on(device) for device in self.devices}
        device = min(self.devices, key=lambda device: taken[device.gpu_id])
        others = [lease for lease in _on(device, self._loaded()) if lease.key != avatar_id]
        if strategy == "dedicated" and any(lease.in_use for lease in others):
            raise ResourceExhausted("every GPU is dedicated to another avatar in use", retry_after_ms=RETRY_WHEN_FULL_MS)
        if strategy == "dedicated":
            for other in others:
                self._evict(other.key, "capacity")
        return [device]

    def make_room(self, avatar: Avatar, devices: Sequence[Device]) -> None:
        """Unloads idle avatars until this one should fit. Raises ResourceExhausted when those in use leave no room."""
        expected, former = _expected_bytes(avatar, devices), _models(self._former())

        def with_it(kept: Sequence[LoadedModel]) -> int:
            return memory_of_all([*kept, *former]) + expected

        victims = self._victims(avatar.id, self._loaded(), self.max_bytes, with_it)
        if victims is None:
            raise ResourceExhausted(
                "the service is full and every loaded avatar is in use; try again, or raise capacity.max_models or "
                "capacity.max_memory_gb",
                retry_after_ms=RETRY_WHEN_FULL_MS,
            )
        for victim in victims:
            self._evict(victim.key, "capacity")

    def trim(self, coming: Lease[LoadedModel]) -> None:
        """Enforces the limits by the measured memory, which is known only after a load."""
        former, limit = self._former(), int(self._settings.gpus.memory_gb_per_gpu * 2**30)

        def victims_among(
            loaded: Sequence[Lease[LoadedModel]], former: Sequence[Lease[LoadedModel]], max_bytes: int, *, on_devices: bool
        ) -> Sequence[Lease[LoadedModel]]:
            stay = [coming.value, *_models(former)]

            def with_them(kept: Sequence[LoadedModel]) -> int:
                return memory_of_all([*kept, *stay], on_devices=on_devices)

            return self._victims(coming.key, loaded, max_bytes, with_them) or []

        victims = [*victims_among(self._loaded(), former, self.max_bytes, on_devices=False)]
        for engine in coming.value.engines:
            victims += victims_among(_on(engine.device, self._loaded()), _on(engine.device, former), limit, on_devices=True)
        for victim in dict.fromkeys(victims):
            self._evict(victim.key, "memory")

    def is_worth_filling(self, coming: LoadedModel) -> bool:
        """Tells if all crops should be made now: a GPU is quicker than they are made, and a video is best decoded in order."""
        if any(engine.device.is_gpu for engine in coming.engines):
            return True
        if not coming.avatar.video:
            return False
        held = self.memory_bytes + coming.memory_bytes
        room = self.max_bytes - held if self.max_bytes else psutil.virtual_memory().available // 2
        return len(coming.engines) * coming.avatar.frame_count * (CROP_BYTES + CROP_BORDER_BYTES) <= room

    def _bytes_on(self, device: Device) -> int:
        return memory_of_all(_models(_on(device, {*self._loaded(), *self._former()})), on_devices=True)

    def _victims(
        self,
        avatar_id: str,
        loaded: Sequence[Lease[LoadedModel]],
        max_bytes: int,
        bytes_with: Callable[[Sequence[LoadedModel]], int],
    ) -> list[Lease[LoadedModel]] | None:
        """Returns the idle avatars to unload so that the other `loaded` ones and this one fit the limits; None if they cannot.

        `max_bytes` 0: no limit. `bytes_with` says the memory of this one together with those that stay.
        """
        kept = [lease for lease in loaded if lease.key != avatar_id]
        victims: list[Lease[LoadedModel]] = []
        for lease in [*first_to_go(kept, self._settings.capacity.eviction_policy), None]:
            total = bytes_with(_models(kept))
            if len(kept) < self.max_models and (not max_bytes or total <= max_bytes):
                return victims
            if lease:
                kept.remove(lease)
                victims.append(lease)
        return None


def _on(device: Device, leases: Iterable[Lease[LoadedModel]]) -> list[Lease[LoadedModel]]:
    return [lease for lease in leases if any(engine.device is device for engine in lease.value.engines)]


def _models(leases: Iterable[Lease[LoadedModel]]) -> list[LoadedModel]:
    return [lease.value for lease in leases]


def _expected_bytes(avatar: Avatar, devices: Sequence[Device]) -> int:
    crops = avatar.frame_count * CROP_BYTES if devices[0].is_gpu else 0
    return len(devices) * (avatar.network_path.stat().st_size + crops)
