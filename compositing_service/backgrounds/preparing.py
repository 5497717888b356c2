"""Prepares an avatar's frames ahead of need, in order: only so does a video cost one decoding a frame."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor

from avatar_kit.errors import AvatarReplaced, BrokenAvatar
from compositing_service.backgrounds.composer import AvatarComposer
from service_kit.malloc import return_free_memory


class Preparation:
    """Reads and encodes the frames on a few threads at a time; begins when it is made. Use from one event loop."""

    def __init__(
        self, composer: AvatarComposer, threads: Executor, *, quality: int, width: int, unasked: int, goes_on: Callable[[], bool]
    ) -> None:
        """`width`: frames at a time while a caller waits for all, else `unasked`. It ends when `goes_on` returns False."""
        self._composer, self._threads, self._quality, self._goes_on = composer, threads, quality, goes_on
        self._frames = composer.avatar.frames_in_order()
        self._next = threading.Lock()
        self._problems: list[str] = []
        self._replaced: AvatarReplaced | None = None
        self._hurry = asyncio.Event()
        self.task = asyncio.create_task(self._run(width, unasked))

    async def wait(self) -> None:
        """Waits until all frames are prepared or room is out. Cancelling the wait does not stop the preparation.

        Raises BrokenAvatar, which names all unreadable frames, and AvatarReplaced when they are gone.
        """
        self._hurry.set()
        await asyncio.shield(self.task)

    async def _run(self, width: int, unasked: int) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for lane in range(width):
                    group.create_task(self._lane(at_once=lane < unasked))
        finally:  # in a thread: closing a video waits for its reader
            await asyncio.get_running_loop().run_in_executor(self._threads, self._end)
        if self._replaced:
            raise self._replaced
        if self._problems:
            raise BrokenAvatar(list(dict.fromkeys(self._problems)))

    async def _lane(self, *, at_once: bool) -> None:
        if not at_once:
            await self._hurry.wait()
        while self._goes_on() and await asyncio.get_running_loop().run_in_executor(self._threads, self._step):
            pass
        self._hurry.set()  # the other steps find nothing left

    def _end(self) -> None:
        """Closes the reader, and gives back what decoded pictures left free between the frames that are kept: some 15 MB."""
        self._frames.close()
        return_free_memory()

    def _step(self) -> bool:
        """Prepares the next frame. Returns False if there is none, or no room for it."""
        try:
            with self._next:
                frame = next(self._frames, None)
            return frame is not None and self._composer.prepare(frame[0], quality=self._quality, read=frame[1])
        except BrokenAvatar as error:
            self._problems += error.problems
            return True
        except AvatarReplaced as error:
            self._replaced = error
            return False
