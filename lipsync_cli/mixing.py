"""Measures the channels of a sound, and mixes them: to one for the network, to two for a film."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]  # [samples, channels]

# Of more than two channels, one whose peak is below this share of the loudest peak is empty and is left out of the mix.
EMPTY_SHARE = 0.001
CENTRE_WEIGHT = 0.7071  # of a channel in the middle, on either side: it stays as loud as it was
# Channels cancel each other out when their mix is quieter than this share of the loudest channel alone.
CANCELLED_SHARE = 0.25
FAINT = 0.001  # root mean square below which a channel counts as silent
FAR_ABOVE_FULL_SCALE = 2.0


class Levels:
    """The loudness of a sound's channels, alone and mixed."""

    def __init__(self, channels: Sequence[str]) -> None:
        """`channels` are FFmpeg's names."""
        self.channels = channels
        self._count = 0
        self._peaks = np.zeros(len(channels))
        self._products = np.zeros((len(channels), len(channels)))

    def add(self, samples: Samples) -> None:
        """Measures the next samples."""
        self._count += len(samples)
        self._peaks = np.maximum(self._peaks, np.abs(samples).max(axis=0))
        self._products += samples.T @ samples

    def mono_weights(self) -> NDArray[np.float32]:
        """Returns [channels, 1]: the mean of the channels that are not empty."""
        heard = self._heard()
        return np.asarray(heard / heard.sum(), np.float32)[:, None]

    def stereo_weights(self) -> NDArray[np.float32]:
        """Returns [channels, 2]: each side is the mean of its channels, never louder than the loudest of them."""
        if len(self.channels) == 2:
            return np.eye(2, dtype=np.float32)
        sides = np.array([_sides(name) for name in self.channels]) * self._heard()[:, None]
        return np.asarray(sides / np.maximum(sides.sum(axis=0), CENTRE_WEIGHT), np.float32)

    def warnings(self) -> Iterator[str]:
        """Yields a sentence about each thing that will probably not be heard as intended."""
        if (peak := self._peaks.max(initial=0)) > FAR_ABOVE_FULL_SCALE:
            yield f"the sound reaches {peak:.3g} times full scale; it should stay between -1 and 1"
        loudest = self._rms(np.eye(len(self._peaks))[np.diagonal(self._products).argmax()])
        mixed = self._rms(self.mono_weights()[:, 0]) * self._heard().sum()
        if loudest > FAINT and mixed < loudest * CANCELLED_SHARE:
            yield "its channels cancel each other out: mixed to one, as the network hears them, they are nearly silent"

    def _heard(self) -> NDArray[np.float64]:
        """Returns [channels]: 0 for empty ones, 1 for the others."""
        if len(self.channels) <= 2:
            return np.ones(len(self.channels))
        heard = self._peaks > self._peaks.max() * EMPTY_SHARE
        return np.asarray(heard if heard.any() else np.ones_like(heard), np.float64)

    def _rms(self, weights: NDArray[np.floating]) -> float:
        """Returns the root mean square of the channels mixed with these weights."""
        return math.sqrt(max(0.0, float(weights @ self._products @ weights)) / max(1, self._count))


def _sides(channel: str) -> tuple[float, float]:
    """Returns the weights of a channel on the left and on the right."""
    name = channel.replace("LFE", "")
    left, right = "L" in name, "R" in name
    return (float(left), float(right)) if left != right else (CENTRE_WEIGHT, CENTRE_WEIGHT)
