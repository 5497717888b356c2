"""NumPy files that nobody vouches for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from avatar_kit.safe_files import FileProblem, check_regular


def open_array(path: Path) -> np.memmap[Any, Any]:
    """An array mapped into memory, read-only; one that holds Python objects is refused unread. Raises FileProblem."""
    check_regular(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise FileProblem(f"cannot be read: {error.strerror}") from None
    except Exception:  # NumPy reads the header as Python text, and raises whatever Python's own parsers do
        raise FileProblem("is not a NumPy array of numbers, or is truncated") from None
