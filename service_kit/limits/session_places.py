"""Counts sessions at once by key, in leases: a session that lost its connection keeps its place for a while, to come back to."""

from __future__ import annotations

from dataclasses import dataclass

# As long as clients take to go on with a session over another connection, and to notice that the first one is lost.
KEPT_S = 15.0


@dataclass(slots=True)
class _Lease:
    streams: int = 0
    until_s: float = float("inf")
    """When it ends; infinity while a stream runs."""

    @property
    def sessions(self) -> int:
        """A session that comes back may find its lost stream still there; further streams of the same id are sessions."""
        return max(1, self.streams - 1)


class SessionPlaces:
    """Places for sessions, at most `most` a key."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._leases: dict[str, dict[str, _Lease]] = {}

    def taken(self, key: str, now_s: float) -> int:
        """Returns the number of sessions that have a place."""
        self._forget(key, now_s)
        return sum(lease.sessions for lease in self._leases.get(key, {}).values())

    def holds(self, key: str, session_id: str, now_s: float) -> bool:
        """Tells if a session has a place already: it runs, or has lost its connection and may come back."""
        self._forget(key, now_s)
        return session_id in self._leases.get(key, {})

    def has_room(self, key: str, session_id: str, now_s: float) -> bool:
        """Tells if a stream of a session may begin."""
        taken = self.taken(key, now_s)
        lease = self._leases.get(key, {}).get(session_id)
        needed = 1 if lease is None else max(1, lease.streams) - lease.sessions
        return taken + needed <= self._most

    def begin(self, key: str, session_id: str) -> None:
        """Notes that a stream of a session begins."""
        lease = self._leases.setdefault(key, {}).setdefault(session_id, _Lease())
        lease.streams += 1
        lease.until_s = float("inf")

    def end(self, key: str, session_id: str, now_s: float, *, is_over: bool) -> None:
        """Notes that a stream ends; the place is free when the session `is_over`, else after KEPT_S."""
        lease = self._leases[key][session_id]
        lease.streams -= 1
        if not lease.streams:
            lease.until_s = now_s if is_over else now_s + KEPT_S
        self._forget(key, now_s)

    def _forget(self, key: str, now_s: float) -> None:
        leases = self._leases.get(key, {})
        for session_id in [each for each, lease in leases.items() if lease.until_s <= now_s]:
            del leases[session_id]
        if not leases:
            self._leases.pop(key, None)
