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

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.onnx_files import load_model
from avatar_kit.onnx_io import DEMO_PRODUCER, encoder_io
from inference_service.audio.encoder import AudioEncoder
from inference_service.audio.features import AudioFeatures
from inference_service.engines.devices import Device
from inference_service.engines.engine import Engine, SharedMemory
from inference_service.engines.network_sessions import SharedSessions
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.engines.sessions import encoder_run, open_session
from inference_service.models.memory import MemoryMeter
from inference_service.models.stored_features import StoredFeatures
from inference_service.settings import OnnxSection

log = logging.getLogger(__name__)

# Rows of each run on a GPU: of any other number it would round otherwise, and first take seconds to look for kernels.
GPU_ROWS = 16


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
    total_inference_ms: float = 0

    @property
    def memory_bytes(self) -> int:
        """Memory of the network and of the crops made so far, without what it shares with other avatars."""
        return self.network_bytes + sum(engine.bank.memory_bytes for engine in self.engines)

    @property
    def shared_memory(self) -> list[SharedMemory]:
        """The memory that it shares with other avatars, in parts, one a device at most."""
        return [engine.shared_memory for engine in self.engines if engine.shared_memory]

    def note_run(self, seconds: float) -> None:
        """Adds the time of one run."""
        self.total_inference_ms += seconds * 1000


def memory_of_all(models: Iterable[LoadedModel]) -> int:
    """Returns the memory of several avatars together: what they share counts once."""
    models = list(models)
    shared = dict.fromkeys(part for model in models for part in model.shared_memory)
    return sum(model.memory_bytes for model in models) + sum(part.nbytes for part in shared)


class ModelLoader:
    """Opens avatars on devices. Blocking; loads on several threads do not wait for each other."""

    def __init__(self, options: OnnxSection, *, max_batch: int = 0) -> None:
        """`max_batch`: frames of a batch at most; 0: a number that suits the device."""
        self._options = options
        self._max_batch = max_batch
        self._memory = MemoryMeter()
        self._shared = SharedSessions(options)
        self._encoders_lock = Lock()
        self._encoders: weakref.WeakValueDictionary[tuple[object, ...], AudioFeatures] = weakref.WeakValueDictionary()
        self._refused: list[AudioFeatures] = []  # kept alive, or the next load would open them again

    def load(self, avatar: Avatar, encoder_path: Path, devices: Sequence[Device]) -> LoadedModel:
        """Opens the network on `devices` and warms it up. Raises BrokenAvatar, DeviceError."""
        started = time.monotonic()
        with self._memory.measured(devices) as taken:
            engines = [
                OnnxEngine(avatar, device, self._options, max_batch=self._max_batch, shared=self._shared) for device in devices
            ]
            for engine in engines:
                self._memory.leave_out(engine.bank)
                warm_up_seconds = engine.warm_up().seconds
        network_bytes = _network_bytes(avatar, engines, taken.bytes)
        features = self.features(encoder_path, devices[0])
        if avatar.audio_encoder_path is None and engines[0].producer != DEMO_PRODUCER:
            _warn_of_the_demos_encoder(avatar, encoder_path)
        stored = StoredFeatures(avatar.features_path, frame_count=avatar.frame_count)
        return LoadedModel(avatar, engines, features, stored, network_bytes, time.monotonic() - started, warm_up_seconds)

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
        model = load_model(encoder_path)
        io = encoder_io(model)
        session = open_session(model, device, self._options, name=encoder_path.name)
        run = encoder_run(session, io, encoder_path.name)
        opened = AudioFeatures(AudioEncoder(run, rows_per_run=io.batch or (GPU_ROWS if device.is_gpu else None)))
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


def _warn_of_the_demos_encoder(avatar: Avatar, encoder_path: Path) -> None:
    if load_model(encoder_path).producer_name == DEMO_PRODUCER:
        log.warning(
            "avatar %s has no audio encoder of its own and is given the demo's (%s): its mouth will move wrongly; put the "
            "encoder that it was trained with there",
            avatar.id,
            encoder_path.name,
        )
