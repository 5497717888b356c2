"""Runs networks of one avatar as the service would, to compare them: time and closeness to float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from inference_service.audio.windows import FrameWindows
from inference_service.engines.devices import Device, find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.models.choosing import IN_FLOAT32, EngineChoice, choose_engine
from inference_service.models.model import LoadedModel, ModelLoader
from inference_service.models.opening import LEAST_PSNR_DB, worst_psnr_db
from inference_service.models.stored_features import StoredFeatures
from inference_service.settings import GpuSection, OnnxSection

LEAST_DB = LEAST_PSNR_DB["bfloat16"]
"""The least that the service asks of a network in bfloat16, and we of a variant."""
MEASURED = 8
ROUNDS = 5


@dataclass(frozen=True)
class Way:
    """A network as it runs here, measured."""

    name: str
    arithmetic: str
    seconds: Sequence[float]
    """Seconds that all measured frames took, in each round."""
    psnr_db: float
    """PSNR of its worst frame, against float32."""

    @property
    def frame_ms(self) -> float:
        """Milliseconds of a frame."""
        return median(self.seconds) * 1000 / MEASURED

    def speed(self, other: Way) -> float:
        """Returns how many times as fast as another it is, measured in turn with it."""
        return median(theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True))


@dataclass(frozen=True)
class NetworkBench:
    """Networks of one avatar on this CPU. Raises AvatarError, DeviceError, ServiceError."""

    avatar: Avatar
    catalog: AvatarCatalog
    speech: NDArray[np.float32]
    """float32 [samples] at 16 kHz, for an avatar without stored features: at least a second a frame of eight."""
    _device: Device = field(default_factory=lambda: find_devices(GpuSection(enabled=False), OnnxSection())[0])

    def windows(self, frames: Sequence[int]) -> FrameWindows:
        """Returns what pictures of the clip hear, [len(frames), 16, 512]: the clip's own sound, or the speech."""
        stored = StoredFeatures(self.avatar.features_path, frame_count=self.avatar.frame_count)
        if stored.shape:
            return stored.windows(frames)
        features = ModelLoader(OnnxSection()).features(self.catalog.audio_encoder_path(self.avatar), self._device)
        heard = features.frame_windows(self.speech, batch_size=2 * len(frames))
        return heard[::2]

    def measured(self, exact: Path, variants: Mapping[str, Path]) -> list[Way]:
        """Measures the network in float32, the avatar's own as it is served, and variants of it, all in turn."""
        served = choose_engine("auto", "auto", [self._device])
        ways = {"float32": self._loaded(exact, IN_FLOAT32), "served now": self._loaded(self.avatar.network_path, served)}
        ways |= {name: self._loaded(path, served) for name, path in variants.items()}
        frames = [(1 + place * self.avatar.frame_count // MEASURED) % self.avatar.frame_count for place in range(MEASURED)]
        windows = self.windows(frames)
        mouths = {name: _mouths(model, frames, windows) for name, model in ways.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, model in ways.items():
                started = perf_counter()
                _mouths(model, frames, windows)
                seconds[name].append(perf_counter() - started)
        return [
            Way(name, model.engines[0].arithmetic, seconds[name], worst_psnr_db(mouths[name], mouths["float32"]))
            for name, model in ways.items()
        ]

    def _loaded(self, path: Path, choice: EngineChoice) -> LoadedModel:
        encoder = self.catalog.audio_encoder_path(self.avatar)
        return ModelLoader(OnnxSection(), choice=choice).load(replace(self.avatar, network_path=path), encoder, [self._device])


def _mouths(model: LoadedModel, frames: Sequence[int], windows: FrameWindows) -> NDArray[np.float32]:
    engine = model.engines[0]
    engine.bank.ensure(frames)
    output = engine.run(EngineInput(windows, np.array(frames, np.int64), NO_PICTURES, want_float=True, want_uint8=False))
    assert output.mouths_float is not None
    return output.mouths_float
