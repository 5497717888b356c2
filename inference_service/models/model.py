"""A loaded avatar: its engines, its way from sound to features, and what is known of its use."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import onnx
import psutil

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_io import encoder_io
from inference_service.audio.encoder import AudioEncoder
from inference_service.audio.features import AudioFeatures
from inference_service.engines.crops import CropBank
from inference_service.engines.devices import Device
from inference_service.engines.engine import Engine
from inference_service.engines.gpu_memory import visible_gpus
from inference_service.engines.sessions import open_session
from inference_service.models.stored_features import StoredFeatures
from inference_service.settings import OnnxSection

log = logging.getLogger(__name__)

DEMO_PRODUCER = "avatar_tools.demo"  # what avatar_tools.demo.graph writes into its networks


@dataclass(eq=False)
class LoadedModel:
    """One avatar, ready to run. Used from the event loop only; the engines run elsewhere."""

    avatar: Avatar
    engines: Sequence[Engine]  # one, or one a device
    features: AudioFeatures
    stored_features: StoredFeatures
    network_bytes: int  # measured: weights and what the warm-up took
    load_seconds: float
    loaded_unix_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    last_used_unix_ms: int = 0
    last_used: float = field(default_factory=time.monotonic)
    usage_count: int = 0
    total_inference_ms: float = 0
    in_use: int = 0

    @property
    def memory_bytes(self) -> int:
        """Memory of the network and of the crops made so far."""
        return self.network_bytes + sum(engine.bank.memory_bytes for engine in self.engines)

    def note_use(self) -> None:
        """Counts one request."""
        self.usage_count += 1
        self.last_used = time.monotonic()
        self.last_used_unix_ms = int(time.time() * 1000)

    def note_run(self, seconds: float) -> None:
        """Adds the time of one run."""
        self.total_inference_ms += seconds * 1000


class ModelLoader:
    """Opens avatars on devices. Blocking; loads one at a time, so that memory can be measured."""

    def __init__(self, options: OnnxSection, *, max_batch: int) -> None:
        self._options = options
        self._max_batch = max_batch
        self._lock = Lock()
        self._banks: weakref.WeakSet[CropBank] = weakref.WeakSet()
        self._encoders: weakref.WeakValueDictionary[tuple[object, ...], AudioFeatures] = weakref.WeakValueDictionary()

    def load(self, avatar: Avatar, encoder_path: Path, devices: Sequence[Device], *, fill: bool) -> LoadedModel:
        """Opens and warms up the network on `devices`; `fill` makes all crops too. Raises BrokenAvatar, DeviceError."""
        with self._lock:
            started = time.monotonic()
            before = self._used_without_crops(devices)
            engines = [Engine(avatar, device, self._options) for device in devices]
            for engine in engines:
                self._banks.add(engine.bank)
                engine.warm_up(self._max_batch)
            # Other work moves the process's memory too: a network never counts less than its file.
            taken = self._used_without_crops(devices) - before
            measured = max(taken, avatar.network_path.stat().st_size * len(engines))
            features = self.features(encoder_path, devices[0])
        if avatar.audio_encoder_path is None and engines[0].producer != DEMO_PRODUCER:
            _warn_of_the_demos_encoder(avatar, encoder_path)
        if fill:
            for engine in engines:
                engine.bank.fill()
        stored = StoredFeatures(avatar.features_path, frame_count=avatar.frame_count)
        return LoadedModel(avatar, engines, features, stored, measured, time.monotonic() - started)

    def _used_without_crops(self, devices: Sequence[Device]) -> int:
        """Crops count by themselves, and those of other avatars may be made meanwhile."""
        crops = sum(bank.device_bytes for bank in self._banks if bank.device in devices)
        return _used_bytes(devices) - crops

    def features(self, encoder_path: Path, device: Device) -> AudioFeatures:
        """The features of the encoder at `encoder_path`, opened once for all avatars that share it. Raises BrokenAvatar."""
        try:
            status = encoder_path.stat()
        except OSError as error:
            raise BrokenAvatar([f"the audio encoder {encoder_path.name} is missing"]) from error
        key = (os.path.realpath(encoder_path), status.st_mtime_ns, status.st_size, device.gpu_id)
        found = self._encoders.get(key)
        if found is None:
            io = encoder_io(encoder_path)
            session = open_session(onnx.load(encoder_path), device, self._options, what=encoder_path.name)
            found = AudioFeatures(AudioEncoder.from_session(session, mel=io.mel, rows=io.rows, batch=io.batch))
            self._encoders[key] = found
        return found


def _warn_of_the_demos_encoder(avatar: Avatar, encoder_path: Path) -> None:
    if onnx.load(encoder_path).producer_name == DEMO_PRODUCER:
        log.warning(
            "avatar %s has no audio encoder of its own and is given the demo's (%s): its mouth will move wrongly; put the "
            "encoder that it was trained with there",
            avatar.id,
            encoder_path.name,
        )


def _used_bytes(devices: Sequence[Device]) -> int:
    if not devices[0].is_gpu:
        return int(psutil.Process().memory_info().rss)
    used = {gpu.index: gpu.used_bytes for gpu in visible_gpus()}
    return sum(used.get(device.gpu_id, 0) for device in devices)
