"""Does small work of several requests on a thread in one go: handing each over alone costs more than doing it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    function: Callable[[], Any]
    done: asyncio.Future[Any]
    weight: int
    context: Context = field(default_factory=copy_context)


class Gathered:
    """Hands over together what is asked for in the same turn of the event loop. Use it on that loop."""

    def __init__(self, start: Callable[[Callable[[], Any]], Awaitable[Any]], *, most: int) -> None:
        """`start` runs a function on a thread. What is handed over together weighs `most` at most, or is one alone."""
        self._start = start
        self._most = most
        self._waiting: list[_Item] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, function: Callable[[], T], *, weight: int = 1) -> T:
        """Runs a function on a thread, in the caller's context. Raises what it raises.

        When the hand-over itself fails, all that were handed over together fail with its error.
        """
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._hand_over, context=Context())
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Item(function, done, weight))
        return await done

    def _hand_over(self) -> None:
        items, self._waiting = self._waiting, []
        together: list[_Item] = []
        weight = 0
        for item in items:
            if together and weight + item.weight > self._most:
                self._begin(together)
                together, weight = [], 0
            together.append(item)
            weight += item.weight
        self._begin(together)

    def _begin(self, items: Sequence[_Item]) -> None:
        task = asyncio.create_task(self._run(items))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _run(self, items: Sequence[_Item]) -> None:
        try:
            results: list[tuple[Any, BaseException | None]] = await self._start(lambda: [_result(item) for item in items])
        except Exception as error:
            results = [(None, error)] * len(items)
        except asyncio.CancelledError:
            for item in items:
                item.done.cancel()
            raise
        for item, (result, failure) in zip(items, results, strict=True):
            if item.done.done():  # its caller has gone
                continue
            if failure is None:
                item.done.set_result(result)
            else:
                item.done.set_exception(failure)


def _result(item: _Item) -> tuple[Any, BaseException | None]:
    if item.done.cancelled():
        return None, None
    try:
        return item.context.run(item.function), None
    except StopIteration as error:  # no future takes it
        return None, RuntimeError(f"the work raised {error!r}")
    except Exception as error:
        return None, error
