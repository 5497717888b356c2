"""Reads what the inference service sends: mouths, and rows of features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import MOUTH_SIZE
from compositing_service.mouth_source import Mouths, Rows
from compositing_service.upstream.errors import InferenceFailed, without_rows
from shared_proto import inference_pb2
from shared_proto.mouth_region import MouthMessage
from shared_proto.timing import ROW_BYTES


def read_mouths(message: MouthMessage, *, due: int, end: int) -> Mouths:
    """Reads the mouths of one message, which must begin with number `due` and stay below `end`. Raises InferenceFailed."""
    region, data = message.fields, message.data
    count = region.frame_count
    if region.first_frame != due or not 1 <= count <= end - due:
        raise _unfit(f"{count} frames from {region.first_frame} on, where {due} to {end - 1} were due")
    if region.mouth_format != inference_pb2.UINT8_BGR:
        raise _unfit(f"mouth_format {region.mouth_format}")
    return Mouths(
        pixels=_pictures(data, _shapes(region)),
        queue_ms=region.queue_time_ms,
        inference_ms=region.inference_time_ms,
        audio_ms=region.audio_processing_ms,
        gpu_id=region.gpu_id,
        numerics=region.numerics,
        overload=region.overload,
    )


def read_rows(region: inference_pb2.MouthRegion, count: int) -> Rows:
    """Reads the rows of an order that were not known.

    Raises InferenceFailed, and for an older service that sends none an error as of one that is lost.
    """
    rows, silent = region.feature_rows, region.silent
    if count and not silent:
        raise without_rows()
    if (len(rows), len(silent)) != (ROW_BYTES * count, count):
        raise _unfit(f"{len(rows)} bytes of rows and {len(silent)} of their silence, where {count} rows were due")
    return Rows(rows, silent=silent)


def _shapes(region: inference_pb2.MouthRegion) -> list[tuple[int, int, int]]:
    """Returns the shape of each mouth. Raises InferenceFailed."""
    count, widths, heights = region.frame_count, region.widths, region.heights
    if not widths and not heights:
        return [(MOUTH_SIZE, MOUTH_SIZE, 3)] * count
    if len(widths) != count or len(heights) != count or min(*widths, *heights) < 1:
        raise _unfit(f"widths {list(widths)} and heights {list(heights)} for {count} frames")
    return [(height, width, 3) for width, height in zip(widths, heights, strict=True)]


def _pictures(data: memoryview, shapes: Sequence[tuple[int, int, int]]) -> list[NDArray[np.uint8]]:
    """Returns views of the pictures of these shapes, one after the other in `data`. Raises InferenceFailed."""
    ends = list(accumulate(map(prod, shapes)))
    if len(data) != ends[-1]:
        raise _unfit(f"{len(data)} bytes for {len(shapes)} frames of {ends[-1]}")
    pixels = np.frombuffer(data, np.uint8)
    return [pixels[end - prod(shape) : end].reshape(shape) for shape, end in zip(shapes, ends, strict=True)]


def _unfit(what: str) -> InferenceFailed:
    return InferenceFailed(f"the inference service sent what does not fit: {what}; are both services of the same version?")
