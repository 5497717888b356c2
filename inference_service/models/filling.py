"""Making all crops of a loaded avatar in the background, which of a long video takes minutes: it holds up no loading."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from avatar_kit.errors import AvatarReplaced, BrokenAvatar
from inference_service.models.model import LoadedModel

log = logging.getLogger(__name__)


class Fillings:
    """Used from the event loop only; the work is done on threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="fill")
        self._tasks: dict[asyncio.Task[None], LoadedModel] = {}

    def begin(self, model: LoadedModel) -> None:
        """Fills the banks of `model`, until it is dropped."""
        task = asyncio.create_task(self._fill(model), name=f"fill-{model.avatar.id}")
        self._tasks[task] = model
        task.add_done_callback(self._tasks.pop)

    async def close(self) -> None:
        """Ends them all, each after the frame that it is at."""
        for model in self._tasks.values():
            drop(model)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown()

    async def _fill(self, model: LoadedModel) -> None:
        try:
            for engine in model.engines:
                await asyncio.get_running_loop().run_in_executor(self._threads, engine.bank.fill)
        except BrokenAvatar as error:
            log.warning("avatar %s: not all frames can be served: %s", model.avatar.id, error)
        except AvatarReplaced:
            pass  # the next request that needs a frame loads it again


def drop(model: LoadedModel) -> None:
    """Has nobody make more crops of it than those that calls under way ask for."""
    for engine in model.engines:
        engine.bank.stop_filling()
