"""Reports how far a long piece of work has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with a name for the work, how much of it is done, and how much there is."""


def silent(_work: str, _done: int, _total: int) -> None:
    """Reports nothing."""
