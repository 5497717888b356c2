"""A request that counts what a queue does with it."""

from __future__ import annotations


class Counted(str):
    """Counts how often it, or another one, is compared or hashed."""

    touched = 0

    def __eq__(self, other: object) -> bool:
        Counted.touched += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        Counted.touched += 1
        return str.__hash__(self)
