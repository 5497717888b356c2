"""Decides if a session whose stream ended goes on with another one, and after which wait."""

from __future__ import annotations

import random
from dataclasses import dataclass

import grpc

from lipsync_client.errors import LipsyncError

# A session that never began gives up as early as a call does.
NEW_PATIENCE_S = 2.0
# The first new stream is opened at once: another replica is probably there. Later ones wait.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0
# A stream that ended sooner counts as a failure too, whatever it sent.
_SHORT_S = 0.5
# Waits are stretched at random, so that sessions that were lost together do not come back together.
_LONGEST_STRETCH = 1.5


@dataclass(slots=True)
class Reconnecting:
    """The attempts of one session. It has no clock: callers pass seconds."""

    patience_s: float
    """The longest time without a stream that runs."""
    admission_s: float
    """The same for a session that never began, at a server without room."""
    is_new: bool = True
    """No stream has run yet."""
    since_s: float | None = None
    """The time of the first of the failures that followed each other; None: the last stream ran."""
    _failures: int = 0
    _started_s: float | None = None

    def started(self, now_s: float) -> None:
        """Notes that a stream has started."""
        self.is_new, self._started_s = False, now_s

    def ran(self) -> None:
        """Notes that a stream runs: it has sent more than its start."""
        self.since_s = None

    def failed(self, error: LipsyncError, now_s: float, *, going_away: bool) -> float:
        """Returns the seconds to wait before the next stream. Raises `error` if none can help, or none did for too long.

        `going_away`: the server had said that the stream would end.
        """
        if not _may_resume(error, going_away):
            raise error
        lasted_s = now_s - self._started_s if self._started_s is not None else 0.0
        if lasted_s > _LONGEST_WAIT_S:
            self.ran()  # with nothing to say
        if lasted_s > _SHORT_S:
            self._failures = 0
        self._started_s = None
        self.since_s = now_s if self.since_s is None else self.since_s
        if error.retry_after_ms is not None:
            wait_s = max(_FIRST_WAIT_S, error.retry_after_ms / 1000)
            patience_s = self.admission_s if self.is_new else self.patience_s
        else:
            wait_s = min(_FIRST_WAIT_S * 2 ** (self._failures - 1), _LONGEST_WAIT_S) if self._failures else 0.0
            patience_s = min(self.patience_s, NEW_PATIENCE_S) if self.is_new else self.patience_s
        self._failures += 1
        if now_s + wait_s - self.since_s > patience_s:
            raise error
        return wait_s * random.uniform(1, _LONGEST_STRETCH)  # noqa: S311 - not for secrets


def _may_resume(error: LipsyncError, going_away: bool) -> bool:
    match error.code:
        case grpc.StatusCode.UNAVAILABLE:
            return True
        case grpc.StatusCode.CANCELLED:  # by a proxy that lost the server; by the server itself: an operator ended the session
            return not error.from_server
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return error.retry_after_ms is not None
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return going_away
    return False
