"""Lets one avatar speak offline: the engine, the audio features and the composer of the services, without servers.

The pictures are those that the services would send in float32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.cores import usable_cores
from avatar_kit.geometry import Picture
from avatar_kit.timeline import IdleMouth, frame_at
from compositing_service.backgrounds.composer import open_composer
from compositing_service.backgrounds.frame_cache import FrameCache
from compositing_service.frame_stream import FRAMES_PER_JOB
from compositing_service.outputs import JpegOutput, Output, RawOutput
from inference_service.audio.features import AudioFeatures
from inference_service.audio.windows import FrameWindows, windows_of_rows
from inference_service.engines.devices import DeviceError, find_devices
from inference_service.engines.engine import NO_PICTURES, EngineError, EngineInput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.models.model import ModelLoader
from inference_service.models.stored_features import StoredFeatures
from inference_service.settings import GpuSection, OnnxSection
from service_kit.errors import FailedPrecondition
from shared_proto.timing import CONTEXT_ROWS, ROWS_BEFORE

Speech = NDArray[np.float32]  # [samples], mono at 16 kHz

_OPTIONS = OnnxSection()
_CACHE_BYTES = 32 * 2**20  # each picture is seldom shown twice
# Jobs that may wait while later mouths are made: the raw pictures of more would fill the memory.
_JOBS_AHEAD = 8


class Speaker:
    """An avatar that speaks. Use it in one thread. Methods block, and raise AvatarError or ServiceError."""

    def __init__(self, avatar: Avatar, catalog: AvatarCatalog) -> None:
        """Opens the network on the GPU or CPU that a service would take without configuration, in float32."""
        self.avatar = avatar
        self._catalog = catalog
        try:
            device = find_devices(GpuSection(), _OPTIONS)[0]
            self._engine = OnnxEngine(avatar, device, _OPTIONS)
        except DeviceError as error:
            raise FailedPrecondition(str(error)) from error
        cache = FrameCache(max_bytes=_CACHE_BYTES, policy="lru")
        frames = cache.open(max_frames=avatar.frame_count)
        self._composer = open_composer(avatar, cache=cache, frames=frames)

    def pictures(self, speech: Speech, positions: Sequence[int]) -> Iterator[Picture]:
        """Yields the picture at each position of the timeline, one for each 40 ms of the speech."""
        return map(self._picture, self._speaking(speech, positions, 0, RawOutput()))

    def jpegs(self, speech: Speech, positions: Sequence[int], *, first: int, quality: int) -> Iterator[bytes]:
        """Yields the frames `first`, `first` + 1 ... of the speech, one at each position of the timeline, as JPEG files."""
        return self._speaking(speech, positions, first, JpegOutput(quality))

    def moment(self, speech: Speech, index: int, *, heard: int) -> Picture:
        """Returns picture `index` of the clip with the mouth for frame `heard` of the speech."""
        (picture,) = self._composited([index], self._windows(speech, heard, 1), RawOutput())
        return self._picture(picture)

    def stored_moment(self, index: int) -> Picture:
        """Returns picture `index` with the mouth for the clip's own sound, from stored features, without the audio encoder."""
        stored = StoredFeatures(self.avatar.features_path, frame_count=self.avatar.frame_count)
        (picture,) = self._composited([index], stored.windows([index]), RawOutput())
        return self._picture(picture)

    def silent(self, position: int) -> Picture:
        """Returns the picture shown without speech at a position of the timeline: as stored, or with the mouth for silence."""
        index = self._index(position)
        if self.avatar.idle_mouth is IdleMouth.STORED:
            return self._picture(self._composer.stored(index, RawOutput()))
        (picture,) = self._composited([index], self._silence, RawOutput())
        return self._picture(picture)

    @cached_property
    def _silence(self) -> FrameWindows:
        return self._windows(np.zeros(1, np.float32), ROWS_BEFORE, 1)

    @cached_property
    def _features(self) -> AudioFeatures:
        loader = ModelLoader(_OPTIONS)
        return loader.features(self._catalog.audio_encoder_path(self.avatar), self._engine.device)

    def _windows(self, speech: Speech, first: int, count: int) -> FrameWindows:
        return windows_of_rows(self._features.rows(speech, first_row=first - ROWS_BEFORE, row_count=count + CONTEXT_ROWS))

    def _index(self, position: int) -> int:
        return frame_at(position, self.avatar.frame_count, self.avatar.loop)

    def _speaking(self, speech: Speech, positions: Sequence[int], first: int, output: Output) -> Iterator[bytes]:
        indices = [self._index(position) for position in positions]
        return self._composited(indices, self._windows(speech, first, len(indices)), output)

    def _composited(self, indices: Sequence[int], windows: FrameWindows, output: Output) -> Iterator[bytes]:
        """Yields the pictures with mouths, composited in as many threads as there are cores while later mouths are made."""
        jobs: deque[Future[list[bytes]]] = deque()
        with ThreadPoolExecutor(usable_cores()) as pool:
            first = 0
            while first < len(indices):
                batch = indices[first : first + self._engine.room]
                mouths = self._mouths(batch, windows[first : first + len(batch)])
                for start in range(0, len(batch), FRAMES_PER_JOB):
                    part = slice(start, start + FRAMES_PER_JOB)
                    jobs.append(pool.submit(self._painted, batch[part], mouths[part], output))
                first += len(batch)
                while len(jobs) > _JOBS_AHEAD:
                    yield from jobs.popleft().result()
            for job in jobs:
                yield from job.result()

    def _painted(self, indices: Sequence[int], mouths: NDArray[np.uint8], output: Output) -> list[bytes]:
        return [self._composer.composite(index, mouth, output) for index, mouth in zip(indices, mouths, strict=True)]

    def _mouths(self, indices: Sequence[int], windows: FrameWindows) -> NDArray[np.uint8]:
        self._engine.bank.ensure(indices)
        batch = EngineInput(windows, np.array(indices, np.int64), NO_PICTURES, want_float=False, want_uint8=True)
        try:
            output = self._engine.run(batch)
        except EngineError as error:
            raise FailedPrecondition(f"the avatar's network failed: {str(error).splitlines()[0][:300]}") from error
        if output.mouths_uint8 is None or not output.finite.all():
            raise FailedPrecondition("the avatar's network gives values that are not finite numbers")
        return output.mouths_uint8

    def _picture(self, pixels: bytes) -> Picture:
        return np.frombuffer(pixels, np.uint8).reshape(self.avatar.height, self.avatar.width, 3)
