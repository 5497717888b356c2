"""Reads NumPy files from untrusted sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from avatar_kit.safe_files import FileProblem, check_regular


def open_array(path: Path) -> np.memmap[Any, Any]:
    """Maps an array into memory, read-only. Refuses one that holds Python objects without reading it. Raises FileProblem."""
    check_regular(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise FileProblem(f"cannot be read: {error.strerror}") from None
    except Exception:  # NumPy parses the header as Python text and passes on whatever Python's parsers raise
        raise FileProblem("is not a NumPy array of numbers, or is truncated") from None
