"""Limits rates by key: the generic cell rate algorithm (GCRA) of ITU-T I.371, in its form with one time a key."""

from __future__ import annotations

from collections import OrderedDict


class Rates:
    """Lets each key use `per_second` of something a second in the long run, and `burst` at once after a pause.

    It holds at most `keys` keys. Beyond, it forgets the one that asked longest ago, which then has its whole burst again.
    """

    def __init__(self, per_second: float, burst: float, *, keys: int = 50_000) -> None:
        self._step_s = 1 / per_second
        self._burst_s = burst * self._step_s
        self._keys = keys
        self._due_s: OrderedDict[str, float] = OrderedDict()
        """When each key would be as if it had never asked."""

    def __len__(self) -> int:
        return len(self._due_s)

    def take(self, key: str, now_s: float, amount: float = 1.0) -> float:
        """Counts an amount. Returns 0, or, when it is refused, the seconds after which so much is allowed.

        More than the burst is allowed where all of the burst is there: it would never be otherwise.
        """
        wait_s = self.wait_s(key, now_s, amount)
        if not wait_s:
            self.charge(key, now_s, amount)
        else:
            self._keep(key, max(self._due_s.get(key, now_s), now_s))
        return wait_s

    def wait_s(self, key: str, now_s: float, amount: float = 1.0) -> float:
        """Returns the seconds after which an amount is allowed; 0: now. Counts nothing."""
        due_s = max(self._due_s.get(key, now_s), now_s)
        ahead_s = max(0.0, self._burst_s - amount * self._step_s)
        wait_s = due_s - ahead_s - now_s
        # Rounding must not refuse what is just due.
        return wait_s if wait_s > 1e-9 else 0.0

    def charge(self, key: str, now_s: float, amount: float) -> None:
        """Counts what was used already, also beyond the limit."""
        self._keep(key, max(self._due_s.get(key, now_s), now_s) + amount * self._step_s)

    def _keep(self, key: str, due_s: float) -> None:
        self._due_s[key] = due_s
        self._due_s.move_to_end(key)
        if len(self._due_s) > self._keys:
            self._due_s.popitem(last=False)
