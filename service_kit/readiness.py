"""Whether the service can do its work now, and if not, why."""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str | None], None]


class Readiness:
    """Ready when nothing blocks. Each cause blocks and clears for itself. Changed on the event loop, read from any thread."""

    def __init__(self) -> None:
        self._blocks: dict[str, str] = {}
        self._listeners: list[Listener] = []

    @property
    def reason(self) -> str | None:
        """Why not ready, as a sentence; None when ready."""
        return "; ".join(list(self._blocks.values())) or None

    def block(self, cause: str, reason: str) -> None:
        """Not ready because of `cause`, until that cause is cleared."""
        self._change(lambda: self._blocks.__setitem__(cause, reason))

    def clear(self, cause: str) -> None:
        """`cause` no longer stands in the way."""
        self._change(lambda: self._blocks.pop(cause, None))

    def subscribe(self, listener: Listener) -> None:
        """Calls `listener` with the reason now and after each change."""
        self._listeners.append(listener)
        listener(self.reason)

    def _change(self, change: Callable[[], object]) -> None:
        before = self.reason
        change()
        if self.reason != before:
            for listener in self._listeners:
                listener(self.reason)
