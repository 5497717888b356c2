"""A loaded avatar: its engines, its encoder and figures of its use. The loader opens it."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import onnx
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_files import load_model, load_model_with_digest
from avatar_kit.onnx_io import DEMO_PRODUCER
from inference_service.audio.features import AudioFeatures
from inference_service.engines.crop_arena import CropArena
from inference_service.engines.devices import THE_CPU, Device
from inference_service.engines.engine import Engine
from inference_service.engines.load_cache import NOTHING_KEPT, LoadCache
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.engines.openvino import OpenVinoEngine
from inference_service.engines.shared_memory import SharedMemory
from inference_service.models.choosing import IN_FLOAT32, EngineChoice
from inference_service.models.encoders import open_encoder
from inference_service.models.memory import MemoryMeter
from inference_service.models.numerics import numerics_name
from inference_service.models.opening import Comparison, Opened, open_exactly, open_quickly, reference_mouths
from inference_service.models.stored_features import StoredFeatures
from inference_service.settings import OnnxSection
from service_kit.errors import FailedPrecondition
from service_kit.malloc import return_free_memory

log = logging.getLogger(__name__)


@dataclass(eq=False)
class LoadedModel:
    """One avatar, ready to run. Used from the event loop only; the engines run elsewhere."""

    avatar: Avatar
    engines: Sequence[Engine]  # one, or one a device
    features: AudioFeatures
    stored_features: StoredFeatures
    network_bytes: int  # its weights where all else is shared; else measured: weights and what the warm-up took
    load_seconds: float
    warm_up_seconds: float  # of one run of the network
    numerics: str  # the way that its mouths are computed: equal ones give equal bytes
    psnr_db: float | None  # how close its mouths in another precision are to those in float32; None: they are in float32
    total_inference_ms: float = 0

    @property
    def memory_bytes(self) -> int:
        """Memory of the network and of the crops made so far, without what it shares with other avatars."""
        return self.network_bytes + sum(engine.bank.memory_bytes for engine in self.engines)

    @property
    def device_bytes(self) -> int:
        """The part of it in the memory of its devices."""
        return self.network_bytes + sum(engine.bank.device_bytes for engine in self.engines)

    @property
    def shared_memory(self) -> list[SharedMemory]:
        """The memory that it shares with other avatars: on each device that of sessions and that of crops."""
        sessions = [engine.shared_memory for engine in self.engines if engine.shared_memory]
        return sessions + [engine.bank.arena.memory for engine in self.engines if engine.bank.arena]

    def note_run(self, seconds: float) -> None:
        """Adds the time of one run."""
        self.total_inference_ms += seconds * 1000


def memory_of_all(models: Iterable[LoadedModel], *, on_devices: bool = False) -> int:
    """Returns the memory of several avatars together, or what of it is on their devices: what they share counts once."""
    models = list(models)
    shared = dict.fromkeys(part for model in models for part in model.shared_memory)
    return sum(model.device_bytes if on_devices else model.memory_bytes for model in models) + sum(part.nbytes for part in shared)


class ModelLoader:
    """Opens avatars on devices. Blocking; loads on several threads do not wait for each other."""

    def __init__(
        self,
        options: OnnxSection,
        *,
        max_batch: int = 0,
        crops_bytes: int = 0,
        choice: EngineChoice = IN_FLOAT32,
        cache: LoadCache = NOTHING_KEPT,
    ) -> None:
        """`max_batch`: frames of a batch at most; 0: a number that suits the device. `cache`: what loads keep for later ones.

        `crops_bytes`: for crops on each GPU.
        """
        self._options = options
        self._choice = choice
        self._cache = cache
        self._max_batch = max_batch
        self._memory = MemoryMeter()
        self._shared = SharedSessions(options)
        self._crops_bytes = crops_bytes
        self._arenas: dict[int, CropArena] = {}  # by GPU
        self._arenas_lock = Lock()
        self._encoders_lock = Lock()
        self._encoders: weakref.WeakValueDictionary[tuple[object, ...], AudioFeatures] = weakref.WeakValueDictionary()
        self._refused: list[AudioFeatures] = []  # kept alive, or the next load would open them again

    def load(self, avatar: Avatar, encoder_path: Path, devices: Sequence[Device]) -> LoadedModel:
        """Opens the network on `devices` and warms it up. Raises BrokenAvatar, DeviceError."""
        started = time.monotonic()
        stored = StoredFeatures(avatar.features_path, frame_count=avatar.frame_count)
        opened, taken_bytes = self._opened(avatar, stored, devices)
        engines = [each.engine for each in opened]
        features = self.features(encoder_path, devices[0])
        if avatar.audio_encoder_path is None and engines[0].producer != DEMO_PRODUCER:
            _warn_of_the_demos_encoder(avatar, encoder_path)
        return LoadedModel(
            avatar,
            engines,
            features,
            stored,
            network_bytes=_network_bytes(avatar, engines, taken_bytes),
            load_seconds=time.monotonic() - started,
            warm_up_seconds=opened[0].run_seconds,
            numerics=numerics_name(engines[0].arithmetic, [opened[0].mouths, *_sample_rows(features)]),
            psnr_db=opened[0].psnr_db,
        )

    def _opened(self, avatar: Avatar, stored: StoredFeatures, devices: Sequence[Device]) -> tuple[list[Opened], int]:
        """Opens the network on each device. Returns also the memory that it takes, in bytes, without its crops."""
        for device in devices:
            self._arena(device)  # before anything is measured: it counts apart
        if self._choice.quick_precision:
            if quick := self._opened_quickly(avatar, stored, devices):
                return quick
            return_free_memory()  # which the comparison took
        with self._memory.measured(devices) as taken:
            opened = [open_exactly(self._in_float32(avatar, device)) for device in devices]
            return_free_memory()
        return opened, taken.bytes

    def _opened_quickly(
        self, avatar: Avatar, stored: StoredFeatures, devices: Sequence[Device]
    ) -> tuple[list[Opened], int] | None:
        """Does so in the choice's quick precision. Returns None where float32 must be used."""
        network, digest = load_model_with_digest(avatar.network_path)
        comparison = Comparison(avatar, stored, digest, devices[0], self._choice, self._cache)
        reference = None
        if comparison.psnr_db is None:
            # On the CPU also for a GPU: there its sessions would take seconds to open, and memory.
            reference = reference_mouths(avatar, stored, network, lambda: self._in_float32(avatar, THE_CPU))
            if reference is None:
                return None
        with self._memory.measured(devices) as taken:
            first = open_quickly(
                avatar, stored, lambda: self._quick(avatar, devices[0], (network, digest)), reference, comparison, self._choice
            )
            others = [open_exactly(self._quick(avatar, device)) for device in devices[1:]] if first else []
            return_free_memory()
        return None if first is None else ([first, *others], taken.bytes)

    def _in_float32(self, avatar: Avatar, device: Device) -> Engine:
        if self._choice.float32_by_openvino:
            return self._noted(
                OpenVinoEngine(avatar, device, self._options, precision="float32", max_batch=self._max_batch, cache=self._cache)
            )
        return self._by_onnxruntime(avatar, device)

    def _quick(self, avatar: Avatar, device: Device, network: tuple[onnx.ModelProto, str] | None = None) -> Engine:
        """Opens it in the quick precision. `network`: its content, which is changed, and its digest, if both were read before."""
        if not self._choice.bfloat16:
            return self._by_onnxruntime(avatar, device, float16=True)
        return self._noted(
            OpenVinoEngine(
                avatar,
                device,
                self._options,
                precision="bfloat16",
                max_batch=self._max_batch,
                network=network,
                cache=self._cache,
            )
        )

    def _by_onnxruntime(self, avatar: Avatar, device: Device, *, float16: bool = False) -> Engine:
        return self._noted(
            OnnxEngine(
                avatar,
                device,
                self._options,
                max_batch=self._max_batch,
                shared=self._shared,
                arena=self._arena(device),
                float16=float16,
            )
        )

    def _arena(self, device: Device) -> CropArena | None:
        """Returns the arena of a device's crops, None where it has none. Raises DeviceError."""
        if not (device.holds_tensors and self._crops_bytes):
            return None
        with self._arenas_lock:
            arena = self._arenas.get(device.gpu_id)
            if arena is None:
                arena = self._arenas[device.gpu_id] = CropArena(device, self._crops_bytes)
            return arena

    def _noted(self, engine: Engine) -> Engine:
        self._memory.leave_out(engine.bank)
        return engine

    def features(self, encoder_path: Path, device: Device) -> AudioFeatures:
        """Returns the features of the encoder at `encoder_path`, opened once for all avatars with it. Raises BrokenAvatar."""
        try:
            status = encoder_path.stat()
        except OSError as error:
            raise BrokenAvatar([f"the audio encoder {encoder_path.name} is missing"]) from error
        key = (os.path.realpath(encoder_path), status.st_mtime_ns, status.st_size, device.gpu_id)
        with self._encoders_lock:
            found = self._encoders.get(key)
        if found is not None:
            return found
        opened = AudioFeatures(open_encoder(encoder_path, device, self._options, self._choice))
        with self._encoders_lock:  # not held while it is opened: another load may be opening it too, or be stuck at it
            return self._encoders.setdefault(key, opened)

    def refuse(self, features: AudioFeatures, reason: str) -> None:
        """Lets an encoder refuse all sound with `reason`, until `reopen`."""
        features.refuse(reason)
        self._refused.append(features)

    def reopen(self) -> None:
        """Lets the next load of a refused encoder open it again."""
        with self._encoders_lock:
            for key, features in list(self._encoders.items()):
                if features in self._refused:
                    del self._encoders[key]
            self._refused.clear()


def _network_bytes(avatar: Avatar, engines: Sequence[Engine], taken: int) -> int:
    """Returns the memory that the avatar's networks count, of what its load took. What they share gets the rest at first."""
    weights = [engine.weight_bytes for engine in engines]
    if not all(weights):
        # Other work moves the process's memory too: a network never counts less than its file.
        return max(taken, avatar.network_path.stat().st_size * len(engines))
    new = [engine.shared_memory for engine in engines if engine.shared_memory and not engine.shared_memory.nbytes]
    for part in new:
        part.nbytes = max(1, taken - sum(weights)) // len(new)
    return sum(weights)


def _sample_rows(features: AudioFeatures) -> list[NDArray[np.float32]]:
    """Returns rows of the encoder; none of one that cannot encode noise, and that requests with sound will tell of."""
    try:
        return [features.sample_rows]
    except FailedPrecondition:
        return []


def _warn_of_the_demos_encoder(avatar: Avatar, encoder_path: Path) -> None:
    if load_model(encoder_path).producer_name == DEMO_PRODUCER:
        log.warning(
            "avatar %s has no audio encoder of its own and is given the demo's (%s): its mouth will move wrongly; put the "
            "encoder that it was trained with there",
            avatar.id,
            encoder_path.name,
        )
