"""Sounds to speak with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000


def speechlike(seconds: int) -> NDArray[np.float32]:
    """Sound that resembles speech a little: float32 [samples] at 16 kHz. A shorter one is the beginning of a longer one."""
    generator = np.random.default_rng(11)
    time = np.arange(seconds * RATE_HZ) / RATE_HZ
    voice = sum(np.sin(2 * np.pi * 120 * k * time + k) / k for k in range(1, 20))
    loudness = np.clip(np.sin(2 * np.pi * 2.3 * time) + 0.3, 0, 1)
    return (0.2 * voice * loudness + 0.001 * generator.standard_normal(len(time))).astype(np.float32)
