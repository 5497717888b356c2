"""Two names for two folders, swapped in one step where the system can."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(one: Path, other: Path) -> bool:
    """Swaps what lies at two paths of one file system: nobody ever sees either of them missing.

    False, and nothing has happened, where one of them is missing or the system or the file system can not do it: Linux 3.15 and
    its own file systems can, network file systems mostly can not.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # another system, or a C library without it
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
