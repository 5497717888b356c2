"""Limits rates by key: the generic cell rate algorithm (GCRA) of ITU-T I.371, in its form with one time a key."""

from __future__ import annotations

from collections import OrderedDict


class Rates:
    """Lets each key do `per_second` things a second in the long run, and `burst` at once after a pause.

    It holds at most `keys` keys. Beyond, it forgets the one that asked longest ago, which then has its whole burst again.
    """

    def __init__(self, per_second: float, burst: int, *, keys: int = 50_000) -> None:
        self._step_s = 1 / per_second
        self._ahead_s = (burst - 1) * self._step_s
        self._keys = keys
        self._due_s: OrderedDict[str, float] = OrderedDict()
        """When each key would be as if it had never asked."""

    def __len__(self) -> int:
        return len(self._due_s)

    def take(self, key: str, now_s: float) -> float:
        """Counts one thing. Returns 0, or, when it is refused, the seconds after which one is allowed."""
        due_s = max(self._due_s.pop(key, now_s), now_s)
        wait_s = due_s - self._ahead_s - now_s
        # Rounding must not refuse what is just due.
        refused = wait_s > 1e-9
        self._due_s[key] = due_s if refused else due_s + self._step_s
        if len(self._due_s) > self._keys:
            self._due_s.popitem(last=False)
        return wait_s if refused else 0.0
