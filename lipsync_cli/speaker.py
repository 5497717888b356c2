"""One avatar that speaks in this process: the engine, the audio features and the composer of the services, without the wire.

What it shows is what the services would send, before it becomes a JPEG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.geometry import Picture
from avatar_kit.timeline import frame_at
from compositing_service.backgrounds.composer import open_composer
from compositing_service.backgrounds.frame_cache import FrameCache
from compositing_service.outputs import RawOutput
from inference_service.audio.features import AudioFeatures
from inference_service.audio.windows import CONTEXT_ROWS, ROWS_BEFORE, FrameWindows, windows_of_rows
from inference_service.engines.devices import DeviceError, find_devices
from inference_service.engines.engine import NO_PICTURES, EngineError, EngineInput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.models.model import ModelLoader
from inference_service.models.stored_features import StoredFeatures
from inference_service.settings import GpuSection, OnnxSection
from lipsync_cli.failures import CliError

_OPTIONS = OnnxSection()
_BATCH = 8
_CACHE_BYTES = 32 * 2**20  # each frame is seldom shown twice


class Speaker:
    """For one thread. Methods block, and raise CliError, AvatarError or ServiceError."""

    def __init__(self, avatar: Avatar, catalog: AvatarCatalog) -> None:
        """Opens the network on the GPU or CPU that a service would take without configuration."""
        self.avatar = avatar
        self._catalog = catalog
        try:
            device = find_devices(GpuSection(), _OPTIONS)[0]
            self._engine = OnnxEngine(avatar, device, _OPTIONS)
        except DeviceError as error:
            raise CliError(str(error)) from error
        cache = FrameCache(max_bytes=_CACHE_BYTES, policy="lru")
        frames = cache.open(max_frames=avatar.frame_count)
        self._composer = open_composer(avatar, cache=cache, frames=frames)

    def pictures(self, speech: NDArray[np.float32], positions: Sequence[int]) -> Iterator[Picture]:
        """The picture at each of those positions of the timeline, for successive 40 ms of the speech, mono at 16 kHz."""
        rows = self._features.rows(speech, first_row=-ROWS_BEFORE, row_count=len(positions) + CONTEXT_ROWS)
        frames = [frame_at(position, self.avatar.frame_count, self.avatar.loop) for position in positions]
        for start in range(0, len(frames), _BATCH):
            batch = frames[start : start + _BATCH]
            windows = windows_of_rows(rows[start : start + len(batch) + CONTEXT_ROWS])
            yield from self._composited(batch, windows)

    def moment(self, speech: NDArray[np.float32], frame: int, *, heard: int) -> Picture:
        """Frame `frame` of the avatar, speaking what is heard at the 40 ms number `heard` of the sound."""
        rows = self._features.rows(speech, first_row=heard - ROWS_BEFORE, row_count=1 + CONTEXT_ROWS)
        (picture,) = self._composited([frame], windows_of_rows(rows))
        return picture

    def remembered(self, frame: int) -> Picture:
        """Frame `frame` speaking what its clip spoke there, by the features stored with the avatar; without the audio encoder."""
        stored = StoredFeatures(self.avatar.features_path, frame_count=self.avatar.frame_count)
        (picture,) = self._composited([frame], stored.windows([frame]))
        return picture

    def silent(self, position: int) -> Picture:
        """The picture at that position of the timeline as it is, without a mouth."""
        frame = frame_at(position, self.avatar.frame_count, self.avatar.loop)
        return self._shaped(self._composer.stored(frame, RawOutput()))

    @cached_property
    def _features(self) -> AudioFeatures:
        loader = ModelLoader(_OPTIONS)
        return loader.features(self._catalog.audio_encoder_path(self.avatar), self._engine.device)

    def _composited(self, frames: Sequence[int], windows: FrameWindows) -> Iterator[Picture]:
        self._engine.bank.ensure(frames)
        batch = EngineInput(windows, np.array(frames, np.int64), NO_PICTURES, want_float=False, want_uint8=True)
        try:
            output = self._engine.run(batch)
        except EngineError as error:
            raise CliError(f"the avatar's network failed: {str(error).splitlines()[0][:300]}") from error
        if output.mouths_uint8 is None or not output.finite.all():
            raise CliError("the avatar's network gives values that are not finite numbers")
        for frame, mouth in zip(frames, output.mouths_uint8, strict=True):
            yield self._shaped(self._composer.composite(frame, mouth, RawOutput()))

    def _shaped(self, pixels: bytes) -> Picture:
        return np.frombuffer(pixels, np.uint8).reshape(self.avatar.height, self.avatar.width, 3)
