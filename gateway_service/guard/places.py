"""Limits how many of something exist at the same time, by key and in all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class NoPlace(Exception):
    """All places are taken."""


class Places:
    """Counts what exists. A key without any takes no memory."""

    def __init__(self, most_per_key: int, most: float = math.inf) -> None:
        self._most = most
        self._most_per_key = most_per_key
        self._by_key: Counter[str] = Counter()
        self.taken = 0

    def take(self, key: str) -> None:
        """Takes a place. Raises NoPlace."""
        if self.taken >= self._most or self._by_key[key] >= self._most_per_key:
            raise NoPlace
        self._by_key[key] += 1
        self.taken += 1

    def give_back(self, key: str) -> None:
        """Gives back a place that was taken."""
        self.taken -= 1
        self._by_key[key] -= 1
        if not self._by_key[key]:
            del self._by_key[key]

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Has a place as long as the block lasts. Raises NoPlace."""
        self.take(key)
        try:
            yield
        finally:
            self.give_back(key)
