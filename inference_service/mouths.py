"""Makes mouths as they are sent of those that a network gives: 320 x 320, or resized to their rectangles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avatar_kit.border import BorderPixels
from avatar_kit.fitting import fit_mouth, is_smaller
from avatar_kit.geometry import MOUTH_SIZE, Picture, Rect
from inference_service.audio.encoder import EncodedRows
from inference_service.engines.crops import CropBank
from shared_proto import inference_pb2 as pb

_WHOLE = (MOUTH_SIZE, MOUTH_SIZE)


@dataclass(frozen=True)
class Mouths:
    """Mouths of consecutive frames."""

    data: NDArray[np.uint8] | NDArray[np.float32]  # C-contiguous, one after the other
    sizes: Sequence[tuple[int, int]] = ()  # width and height of each; empty: all are 320 x 320
    new_rows: EncodedRows | None = None  # the request's rows that its caller did not know, with its first mouths
    numerics: str = ""  # the way that they were computed: equal ones give equal bytes
    overload: pb.Overload.ValueType = pb.OVERLOAD_NONE  # how far the service asks to degrade live sessions

    def each(self) -> Iterator[NDArray[np.uint8] | NDArray[np.float32]]:
        """Yields a view of each mouth."""
        if not self.sizes:
            yield from self.data
            return
        start = 0
        for width, height in self.sizes:
            end = start + width * height * 3
            yield self.data[start:end].reshape(height, width, 3)
            start = end


def fitted(mouths: NDArray[np.uint8], frames: Sequence[int], bank: CropBank, fit: pb.MouthFit.ValueType) -> Mouths:
    """Resizes the mouths [n, 320, 320, 3] of these frames of the clip to their rectangles, where that makes them smaller.

    The crops of `frames` are in the bank.
    """
    borders = [bank.border(frame) if fit == pb.FIT_CROP else None for frame in frames]
    sizes = [_size(bank.rect(frame), border, fit) for frame, border in zip(frames, borders, strict=True)]
    data = np.empty(sum(width * height * 3 for width, height in sizes), np.uint8)
    start = 0
    for mouth, border, (width, height) in zip(mouths, borders, sizes, strict=True):
        end = start + width * height * 3
        _write(mouth, border, data[start:end].reshape(height, width, 3))
        start = end
    return Mouths(data, sizes)


def _size(rect: Rect, border: BorderPixels | None, fit: pb.MouthFit.ValueType) -> tuple[int, int]:
    can_fit = fit == pb.FIT_MOUTH or (fit == pb.FIT_CROP and border is not None)
    return (rect.width, rect.height) if can_fit and is_smaller(rect) else _WHOLE


def _write(mouth: Picture, border: BorderPixels | None, out: Picture) -> None:
    if out.shape == mouth.shape:  # no smaller rectangle has that size
        out[...] = mouth
    else:
        fit_mouth(mouth, border, out)
