"""Decides if a call that failed is sent again, and after which wait."""

from __future__ import annotations

import random
import threading

import grpc

from lipsync_client.errors import LipsyncError

MAX_ATTEMPTS = 4
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 0.5
# Load, unload and compositing are all safe to repeat: a batch depends on its request alone. So is all of the earlier service.
# A proxy whose server died in the middle of a reply sends a CANCELLED that the caller did not ask for.
REPEATED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
# A client whose calls mostly fail stops repeating them after some fifty failures, and begins again as calls succeed.
MOST_TOKENS, TOKENS_OF_A_SUCCESS = 100.0, 0.5


class Retries:
    """State that the calls of one client share, for any number of threads."""

    def __init__(self) -> None:
        self._tokens = MOST_TOKENS
        self._closed = False
        self._lock = threading.Lock()

    def close(self) -> None:
        """No call is sent again from now on."""
        self._closed = True

    def succeeded(self) -> None:
        """Notes a call that succeeded."""
        with self._lock:
            self._tokens = min(MOST_TOKENS, self._tokens + TOKENS_OF_A_SUCCESS)

    def wait_s(self, error: LipsyncError, *, attempts: int, left_s: float) -> float | None:
        """Notes a failure. Returns the seconds to wait before the call is sent again; None: it is not.

        `attempts`: how often it was sent. `left_s`: seconds to its deadline.
        """
        if error.code not in REPEATED or self._closed:
            return None
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)
            most_succeed = self._tokens > MOST_TOKENS / 2
        if attempts >= MAX_ATTEMPTS or not most_succeed:
            return None
        if error.retry_after_ms is not None:
            wait_s = error.retry_after_ms / 1000
        else:
            wait_s = min(FIRST_WAIT_S * 2 ** (attempts - 1), LONGEST_WAIT_S) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        return wait_s if wait_s < left_s else None
