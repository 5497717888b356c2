"""Mouth regions as they come from the inference service, checked before anything is pasted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import MOUTH_SIZE
from compositing_service.upstream.errors import InferenceFailed
from compositing_service.upstream.mouth_messages import MouthMessage
from shared_proto import inference_pb2

MOUTH_BYTES = MOUTH_SIZE * MOUTH_SIZE * 3


@dataclass(frozen=True, slots=True)
class Mouths:
    """The regions of successive frames. `pixels` is read-only uint8 [frames, 320, 320, 3] BGR."""

    first: int
    pixels: NDArray[np.uint8]
    inference_ms: float
    audio_ms: float
    gpu_id: int


def read_mouths(message: MouthMessage, *, offset: int, first: int, end: int) -> Mouths:
    """The content of one message, which must continue with frame `first` and stay below `end`.

    `offset` is the batch place that the asked inference request began with. Raises InferenceFailed for what does not fit.
    """
    region, data = message.fields, message.data
    count = region.frame_count
    if region.first_frame + offset != first or not 1 <= count <= end - first:
        raise _unfit(f"frames {region.first_frame + offset} and {count} on, where {first} to {end - 1} were due")
    if region.mouth_format != inference_pb2.UINT8_BGR:
        raise _unfit(f"mouth_format {region.mouth_format}")
    if len(data) != count * MOUTH_BYTES:
        raise _unfit(f"{len(data)} bytes for {count} frames of {MOUTH_BYTES}")
    return Mouths(
        first=first,
        pixels=np.frombuffer(data, dtype=np.uint8).reshape(count, MOUTH_SIZE, MOUTH_SIZE, 3),
        inference_ms=region.inference_time_ms,
        audio_ms=region.audio_processing_ms,
        gpu_id=region.gpu_id,
    )


def _unfit(what: str) -> InferenceFailed:
    return InferenceFailed(f"the inference service sent what does not fit: {what}; are both services of the same version?")
