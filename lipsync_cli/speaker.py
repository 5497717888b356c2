"""Lets one avatar speak in this process: the engine, the audio features and the composer of the services, without the wire.

The pictures are those that the services would send, before they become JPEG files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import AvatarError
from avatar_kit.geometry import Picture
from avatar_kit.timeline import IdleMouth, frame_at
from avatar_tools.demo import SPEECH_PATH
from avatar_tools.inspect import Composite
from compositing_service.backgrounds.composer import open_composer
from compositing_service.backgrounds.frame_cache import FrameCache
from compositing_service.outputs import RawOutput
from inference_service.audio.features import AudioFeatures
from inference_service.audio.windows import FrameWindows, Rows, windows_of_rows
from inference_service.engines.devices import DeviceError, find_devices
from inference_service.engines.engine import NO_PICTURES, EngineError, EngineInput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.models.model import ModelLoader
from inference_service.models.stored_features import StoredFeatures
from inference_service.settings import GpuSection, OnnxSection
from lipsync_cli.failures import CliError
from lipsync_cli.recording import Speech, read_recording
from service_kit.errors import ServiceError
from shared_proto.timing import CONTEXT_ROWS, ROWS_BEFORE, SAMPLES_A_FRAME

_OPTIONS = OnnxSection()
_BATCH = 8
_CACHE_BYTES = 32 * 2**20  # each picture is seldom shown twice


class Speaker:
    """An avatar that speaks. Use it in one thread. Methods block, and raise CliError, AvatarError or ServiceError."""

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

    def pictures(self, speech: Speech, positions: Sequence[int]) -> Iterator[Picture]:
        """Yields the picture at each position of the timeline, one for each 40 ms of the speech."""
        rows = self._features.rows(speech, first_row=-ROWS_BEFORE, row_count=len(positions) + CONTEXT_ROWS)
        indices = [frame_at(position, self.avatar.frame_count, self.avatar.loop) for position in positions]
        for start in range(0, len(indices), _BATCH):
            batch = indices[start : start + _BATCH]
            windows = windows_of_rows(rows[start : start + len(batch) + CONTEXT_ROWS])
            yield from self._composited(batch, windows)

    def moment(self, speech: Speech, index: int, *, heard: int) -> Picture:
        """Returns picture `index` of the clip with the mouth for frame `heard` of the speech."""
        rows = self._features.rows(speech, first_row=heard - ROWS_BEFORE, row_count=1 + CONTEXT_ROWS)
        (picture,) = self._composited([index], windows_of_rows(rows))
        return picture

    def stored_moment(self, index: int) -> Picture:
        """Returns picture `index` with the mouth for the clip's own sound, from stored features, without the audio encoder."""
        stored = StoredFeatures(self.avatar.features_path, frame_count=self.avatar.frame_count)
        (picture,) = self._composited([index], stored.windows([index]))
        return picture

    def silent(self, position: int) -> Picture:
        """Returns the picture shown without speech at a position of the timeline: as stored, or with the mouth for silence."""
        index = frame_at(position, self.avatar.frame_count, self.avatar.loop)
        if self.avatar.idle_mouth is IdleMouth.STORED:
            return self._picture(self._composer.stored(index, RawOutput()))
        (picture,) = self._composited([index], windows_of_rows(self._silent_rows))
        return picture

    @cached_property
    def _silent_rows(self) -> Rows:
        return self._features.rows(np.zeros(1, np.float32), first_row=0, row_count=1 + CONTEXT_ROWS)

    @cached_property
    def _features(self) -> AudioFeatures:
        loader = ModelLoader(_OPTIONS)
        return loader.features(self._catalog.audio_encoder_path(self.avatar), self._engine.device)

    def _composited(self, indices: Sequence[int], windows: FrameWindows) -> Iterator[Picture]:
        self._engine.bank.ensure(indices)
        batch = EngineInput(windows, np.array(indices, np.int64), NO_PICTURES, want_float=False, want_uint8=True)
        try:
            output = self._engine.run(batch)
        except EngineError as error:
            raise CliError(f"the avatar's network failed: {str(error).splitlines()[0][:300]}") from error
        if output.mouths_uint8 is None or not output.finite.all():
            raise CliError("the avatar's network gives values that are not finite numbers")
        for index, mouth in zip(indices, output.mouths_uint8, strict=True):
            yield self._picture(self._composer.composite(index, mouth, RawOutput()))

    def _picture(self, pixels: bytes) -> Picture:
        return np.frombuffer(pixels, np.uint8).reshape(self.avatar.height, self.avatar.width, 3)


def loud_moment(avatar: Avatar, catalog: AvatarCatalog) -> Composite | str:
    """Composites the clip's middle picture with the mouth for the loudest moment of the shipped speech, or says why it cannot.

    Without an audio encoder the mouth is the one for the clip's own sound, if the avatar's features are stored.
    """
    index = avatar.frame_count // 2
    try:
        speaker = Speaker(avatar, catalog)
        speech = read_recording(SPEECH_PATH).speech()
        try:
            return Composite(index, speaker.moment(speech, index, heard=_loudest(speech)))
        except AvatarError:
            if avatar.features_path is None:
                raise
            return Composite(index, speaker.stored_moment(index))
    except (AvatarError, CliError, ServiceError) as error:
        return str(error)


def _loudest(speech: Speech) -> int:
    """Returns the number of the loudest 40 ms."""
    pieces = speech[: speech.size // SAMPLES_A_FRAME * SAMPLES_A_FRAME].reshape(-1, SAMPLES_A_FRAME)
    return int(np.argmax(np.square(pieces).mean(axis=1)))
