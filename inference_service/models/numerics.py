"""Names how an avatar's mouths are computed: equal names, equal bytes.

The program, its version and its precision do not say it all: processors round differently too. So the name ends with a digest of
what this process really computed, a mouth and rows of the audio encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_DIGITS = 8


def numerics_name(arithmetic: str, computed: Iterable[NDArray[np.float32]]) -> str:
    """Returns a name like openvino-2026.4.1/bfloat16/3f9c2a1e, for values that were computed so of the same input everywhere."""
    digest = hashlib.sha256()
    for values in computed:
        digest.update(np.ascontiguousarray(values, "<f4").tobytes())
    return f"{arithmetic}/{digest.hexdigest()[:_DIGITS]}"
