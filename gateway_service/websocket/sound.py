"""Reads sound of browsers."""

from __future__ import annotations

from typing import Any

import numpy as np

from gateway_service.websocket.messages import InvalidMessage
from lipsync_client import PushedSound

DTYPES: dict[str, np.dtype[Any]] = {"PCM_FLOAT32": np.dtype("<f4"), "PCM_INT16": np.dtype("<i2")}


def read_sound(data: bytes, encoding: str) -> PushedSound:
    """Returns the samples of a binary message, a view of it. Raises InvalidMessage for half samples, NaN and infinity."""
    dtype = DTYPES[encoding]
    if len(data) % dtype.itemsize:
        raise InvalidMessage(f"sound: {len(data)} bytes are no whole number of samples: send a multiple of {dtype.itemsize}")
    samples: PushedSound = np.frombuffer(data, dtype)
    if dtype.kind == "f" and not np.isfinite(samples).all():
        raise InvalidMessage("sound: it holds numbers that are not finite")
    return samples
