"""An avatar's frames being prepared, as those see it who step it on or wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol


class Preparation(Protocol):
    """Thread-safe."""

    def step(self) -> bool:
        """Prepares one more frame. False: all are prepared, or room is out. Blocks. Raises BrokenAvatar for a frame."""

    def wish(self, indices: Sequence[int], *, quality: int | None) -> Future[None] | None:
        """What has to be waited for before these frames are painted; None: nothing. `quality`: None for raw pixels."""

    def end(self) -> None:
        """Nobody has to wait any more, and nothing is prepared after it. Blocks while somebody reads a frame."""
