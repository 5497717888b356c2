"""Ends what runs for a caller when the caller is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service_kit.callers.authority import Authority
from service_kit.callers.caller import Caller


class RunningWork:
    """The tasks that work for callers for a long time, such as streams."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._callers: dict[asyncio.Task[Any], Caller] = {}
        self._ended: set[asyncio.Task[Any]] = set()
        authority.on_change(self._end_revoked)

    @contextmanager
    def of(self, caller: Caller) -> Iterator[None]:
        """Ends its block, in the running task, when the caller is revoked. Raises Unauthenticated then."""
        task = asyncio.current_task()
        assert task
        self._callers[task] = caller
        try:
            yield
        except asyncio.CancelledError:
            if task in self._ended and task.uncancel() == 0:
                raise self._authority.revoked(caller) from None
            raise
        finally:
            del self._callers[task]
            self._ended.discard(task)

    def _end_revoked(self) -> None:
        for task, caller in self._callers.items():
            if caller.is_revoked and task not in self._ended:
                self._ended.add(task)
                task.cancel()
