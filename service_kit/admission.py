"""How many calls run, and a limit to it."""

from __future__ import annotations


class RunningCalls:
    """Counts running calls; health checks and reflection are exempt. Lives on the event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
