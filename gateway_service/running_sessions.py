"""The sessions of this gateway, by their secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from gateway_service.watching import Watched


class RunningSession(Watched):
    """A session that a socket holds."""

    def __init__(self, secret: str, session_id: str, *, rate: int, is_paced: bool) -> None:
        super().__init__()
        self.secret = secret
        self.session_id = session_id
        self.rate = rate
        """Rate of its sound, in Hz."""
        self.is_paced = is_paced
        """Its frames come at the pace at which they are to be seen."""


class RunningSessions:
    """All sessions of this gateway. They are kept by digests, so the time of a look-up tells nothing of a secret."""

    def __init__(self) -> None:
        self._by_digest: dict[bytes, RunningSession] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    @contextmanager
    def running(self, secret: str, session_id: str, *, rate: int, is_paced: bool) -> Iterator[RunningSession]:
        """Lists a session during the block, under a new secret."""
        session = RunningSession(secret, session_id, rate=rate, is_paced=is_paced)
        digest = _digest(session.secret)
        self._by_digest[digest] = session
        try:
            yield session
        finally:
            del self._by_digest[digest]
            session.end()

    def find(self, secret: str) -> RunningSession | None:
        """Returns the session with this secret, if it runs here."""
        return self._by_digest.get(_digest(secret))


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
