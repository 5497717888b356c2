"""Makes mouths in this process: the inference service's parts as the compositing service's `MouthSource`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from compositing_service.mouth_source import MouthOrder, Mouths, Rows, RowsOrder
from compositing_service.upstream.errors import OUT_OF_STEP
from inference_service.audio.encoder import EncodedRows
from inference_service.request import MouthRequest, check_encode_request, check_infer_request
from inference_service.runner import Runner
from inference_service.settings import LimitsSection
from service_kit.deadline import Deadline
from service_kit.errors import FailedPrecondition, NotFound, OutOfRange, ServiceError
from service_kit.readiness import Readiness


@dataclass(frozen=True, slots=True)
class LocalMouthSource:
    """The runner and the registry of this process as a `MouthSource`. Mouths are the runner's own arrays.

    An order becomes the message that the other process would get, so both ways have the same checks and the same limits.
    """

    runner: Runner
    limits: LimitsSection
    readiness: Readiness

    async def mouths(self, order: MouthOrder, *, deadline: Deadline) -> AsyncGenerator[Mouths, None]:
        """Does `MouthSource.mouths`."""
        deadline = self._limited(deadline)
        with self.runner.admitted(due=order.due_in_ms != 0):
            async with deadline.kept():
                request = await self._request(order)
            async with aclosing(self.runner.mouths(request, deadline_s=deadline.at_s)) as groups:
                while True:
                    # A `yield` within the deadline would cut off the reader's work instead of ours.
                    async with deadline.kept():
                        try:
                            made = await anext(groups, None)
                        except OutOfRange as error:
                            raise FailedPrecondition(OUT_OF_STEP) from error
                    if made is None:
                        return
                    group, mouths = made
                    yield Mouths(
                        pixels=[_read_only(mouth) for mouth in mouths.each()],
                        queue_ms=group.queue_seconds * 1000,
                        inference_ms=group.run_seconds * 1000,
                        audio_ms=group.audio_seconds * 1000,
                        gpu_id=group.gpu_id,
                        rows=_rows(mouths.new_rows) if mouths.new_rows else None,
                        numerics=mouths.numerics,
                        overload=mouths.overload,
                    )

    async def rows(self, order: RowsOrder, *, deadline: Deadline) -> Rows:
        """Does `MouthSource.rows`."""
        message = order.message()
        with self.runner.admitted(due=order.due_in_ms > 0):
            async with self._limited(deadline).kept():
                request = await self.runner.checked(partial(check_encode_request, message, self.limits), message)
                encoded, seconds = await self.runner.encode(request)
        return _rows(encoded, audio_ms=seconds * 1000)

    async def load(self, avatar_id: str, *, force_reload: bool, deadline: Deadline) -> list[ServiceError | None]:
        """Does `MouthSource.load`."""
        try:
            async with self._limited(deadline).kept():
                await self.runner.registry.load(avatar_id, force_reload=force_reload)
        except ServiceError as error:
            return [error]
        return [None]

    async def unload(self, avatar_id: str, *, deadline: Deadline) -> list[ServiceError | None]:
        """Does `MouthSource.unload`."""
        registry = self.runner.registry
        if registry.unload(avatar_id) or await self.runner.on_thread(partial(registry.catalog.has, avatar_id)):
            return [None]
        return [NotFound(f"no avatar {avatar_id}")]

    async def healthy(self) -> bool:
        """Does `MouthSource.healthy`."""
        return self.readiness.reason is None

    def _limited(self, deadline: Deadline) -> Deadline:
        return min(deadline, Deadline.after(self.limits.request_seconds))

    async def _request(self, order: MouthOrder) -> MouthRequest:
        """Checks the order. Callers' own pictures, up to 59 MB, are copied on a thread."""
        message = await self.runner.on_thread(order.message) if order.pictures else order.message()
        return await self.runner.checked(partial(check_infer_request, message, self.limits), message)


def _rows(encoded: EncodedRows, *, audio_ms: float = 0.0) -> Rows:
    data, silent = encoded.wire()
    return Rows(data, audio_ms=audio_ms, silent=silent)


def _read_only(mouth: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns a view that nobody may write to."""
    pixels = np.asarray(mouth, np.uint8).view()
    pixels.flags.writeable = False
    return pixels
