"""Limits rates by key: the generic cell rate algorithm (GCRA) of ITU-T I.371, in its form with one time a key."""

from __future__ import annotations

from collections import OrderedDict

# Rounding must not refuse what is just due.
_ROUNDING_S = 1e-9


class DueTimes:
    """The time at which each key would be as if it had never asked, for at most `keys` keys.

    Beyond, it forgets the key that asked longest ago, which then has its whole burst again.
    """

    def __init__(self, keys: int = 50_000) -> None:
        self._keys = keys
        self._due_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due_s)

    def wait_s(self, key: str, now_s: float, amount: float, *, per_second: float, burst: float) -> float:
        """Returns the seconds after which an amount is allowed; 0: now. Counts nothing.

        More than the burst is allowed where all of the burst is there: it would never be otherwise.
        """
        wait_s = self._due(key, now_s) - max(0.0, burst - amount) / per_second - now_s
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def charge(self, key: str, now_s: float, amount: float, *, per_second: float) -> None:
        """Counts an amount, also beyond the limit."""
        self._due_s[key] = self._due(key, now_s) + amount / per_second
        self._due_s.move_to_end(key)
        if len(self._due_s) > self._keys:
            self._due_s.popitem(last=False)

    def _due(self, key: str, now_s: float) -> float:
        return max(self._due_s.get(key, now_s), now_s)


class Rates:
    """Lets each key use `per_second` of something a second in the long run, and `burst` at once after a pause."""

    def __init__(self, per_second: float, burst: float, *, keys: int = 50_000) -> None:
        self._per_second = per_second
        self._burst = burst
        self._times = DueTimes(keys)

    def __len__(self) -> int:
        return len(self._times)

    def take(self, key: str, now_s: float, amount: float = 1.0) -> float:
        """Counts an amount. Returns 0, or, when it is refused, the seconds after which so much is allowed."""
        wait_s = self._times.wait_s(key, now_s, amount, per_second=self._per_second, burst=self._burst)
        # One that is refused has asked too, and is not forgotten before those that asked earlier.
        self._times.charge(key, now_s, 0.0 if wait_s else amount, per_second=self._per_second)
        return wait_s
