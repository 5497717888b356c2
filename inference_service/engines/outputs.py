"""Takes the mouths of a run: as floats, as pixels, and the frames whose values are all finite.

On a GPU the pixels come from the graph, a quarter of the bytes to download. On a CPU the graph ends with the network: there each
small step is a way through memory, and two of four are spared where the values keep to 0..1, as a sigmoid's do.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from avatar_kit.geometry import MOUTH_SIZE
from inference_service.engines.engine import EngineInput
from inference_service.graphs import wrapping

# Read as whole numbers, the bits of the floats from 0 to 1 are 0 to this. Those of all others are larger: of larger values, of
# negative ones, infinities and NaN.
_BITS_OF_1 = np.float32(1).view(np.uint32)


class Mouths:
    """Room for the mouths of a batch."""

    def __init__(self, frames: int, *, want_float: bool, want_uint8: bool) -> None:
        """Allocates only the formats that are wanted."""
        size = MOUTH_SIZE
        self.floats = np.empty((frames, 3, size, size), np.float32) if want_float else None
        self.pixels = np.empty((frames, size, size, 3), np.uint8) if want_uint8 else None
        self.finite = np.empty(frames, np.bool_)


class RunOutputs(Protocol):
    """The outputs of one run at a time."""

    def bind(self, binding: onnxruntime.IOBinding, batch: EngineInput) -> None:
        """Says where the run writes what `batch` wants."""

    def take(self, mouths: Mouths, here: slice) -> None:
        """Puts the outputs of the last run, [n, 3, 320, 320], into frames `here` of the batch."""


class FloatOutputs:
    """Those of a graph that ends with its network."""

    def __init__(self, name: str, frames: int) -> None:
        self.values = np.empty((frames, 3, MOUTH_SIZE, MOUTH_SIZE), np.float32)
        self._name = name
        self._bits = self.values.view(np.uint32)
        self._planes = np.empty(self.values.shape, np.uint8)
        self._bound: tuple[onnxruntime.IOBinding, int] | None = None

    def bind(self, binding: onnxruntime.IOBinding, batch: EngineInput) -> None:
        frames = len(batch.windows)
        if self._bound != (binding, frames):
            _bind(binding, self._name, self.values[:frames])
            self._bound = binding, frames

    def take(self, mouths: Mouths, here: slice) -> None:
        frames = here.stop - here.start
        values, planes = self.values[:frames], self._planes[:frames]
        keeps_to_0_1 = np.maximum.reduce(self._bits[:frames], axis=None) <= _BITS_OF_1
        mouths.finite[here] = keeps_to_0_1 or np.isfinite(values).all(axis=(1, 2, 3))
        if mouths.floats is not None:
            mouths.floats[here] = values
        if mouths.pixels is None:
            return
        if not keeps_to_0_1:  # x 255 may then be clamped before or after; a NaN gets any value
            np.nan_to_num(values, copy=False)
            np.clip(values, 0, 1, out=values)
        np.multiply(values, np.float32(255), out=values)
        np.copyto(planes, values, casting="unsafe")  # truncates
        _interleave(planes, mouths.pixels[here])


class PixelOutputs:
    """Those of a graph that makes pixels too."""

    def __init__(self, name: str, frames: int) -> None:
        self._name = name
        self._values = np.empty((frames, 3, MOUTH_SIZE, MOUTH_SIZE), np.float32)
        self._planes = np.empty(self._values.shape, np.uint8)
        self._sums = np.empty(frames, np.float32)

    def bind(self, binding: onnxruntime.IOBinding, batch: EngineInput) -> None:
        frames = len(batch.windows)
        binding.clear_binding_outputs()  # what is bound is downloaded
        _bind(binding, wrapping.SUMS, self._sums[:frames])
        if batch.want_float:
            _bind(binding, self._name, self._values[:frames])
        if batch.want_uint8:
            _bind(binding, wrapping.MOUTHS_UINT8, self._planes[:frames])

    def take(self, mouths: Mouths, here: slice) -> None:
        frames = here.stop - here.start
        take_pixels(mouths, here, self._sums[:frames], self._values[:frames], self._planes[:frames])


def take_pixels(
    mouths: Mouths,
    here: slice,
    sums: NDArray[np.float32],
    floats: NDArray[np.float32] | None,
    planes: NDArray[np.uint8] | None,
) -> None:
    """Puts sums [n], values and planes [n, 3, 320, 320] of a run into frames `here`: those that the batch wants."""
    mouths.finite[here] = np.isfinite(sums)
    if mouths.floats is not None and floats is not None:
        mouths.floats[here] = floats
    if mouths.pixels is not None and planes is not None:
        _interleave(planes, mouths.pixels[here])


def _bind(binding: onnxruntime.IOBinding, name: str, array: NDArray[np.float32] | NDArray[np.uint8]) -> None:
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _interleave(planes: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> None:
    """[n, 3, 320, 320] -> [n, 320, 320, 3]. OpenCV does it in a tenth of the time of a Transpose in the graph."""
    for frame, picture in zip(planes, pixels, strict=True):
        cv2.merge(list(frame), picture)
