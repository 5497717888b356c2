"""Memory that several avatars use together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class SharedMemory:
    """The memory of what several avatars' engines use together. It counts once."""

    nbytes: int = 0
    """Sessions have theirs measured at the first load."""
