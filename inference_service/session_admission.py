"""Admits live sessions. Loads and measures the avatar of one that asks for a place, and notes the frames that are made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import aclosing

import numpy as np

from inference_service.engines.engine import Engine
from inference_service.metrics import InferenceMetrics
from inference_service.models.model import LoadedModel
from inference_service.models.registry import ModelRegistry
from inference_service.request import MouthRequest
from inference_service.scheduling.admission import ENOUGH_RUNS, Admission
from inference_service.scheduling.dispatcher import Dispatcher
from inference_service.scheduling.jobs import Job, MouthGroup
from inference_service.scheduling.overload import Overload
from service_kit.clock import Clock
from service_kit.errors import ResourceExhausted
from shared_proto import inference_pb2 as pb
from shared_proto.timing import FRAME_RATE, ROW_SIZE, WINDOW_ROWS

_RETRY_MS = 1000


class SessionAdmission:
    """Lives on the event loop. The policy is that of `admission`."""

    def __init__(
        self,
        registry: ModelRegistry,
        dispatchers: Mapping[int, Dispatcher],
        admission: Admission,
        overload: Overload,
        metrics: InferenceMetrics,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._dispatchers = dispatchers
        self._admission = admission
        self._overload = overload
        self._metrics = metrics
        self._clock = clock

    @property
    def overload(self) -> pb.Overload.ValueType:
        """The level of overload that callers are told now."""
        return self._overload.level

    async def take_on(self, session_id: str, request: MouthRequest) -> None:
        """Counts the session of a request as carried. Raises ResourceExhausted when it asks for a place that there is not."""
        if request.admission != pb.ADMITTED and not await self._has_room(session_id, request):
            kind = "resumed" if request.admission == pb.RESUMED_SESSION else "new"
            self._metrics.refused_sessions.labels(kind).inc()
            self._overload.note_refused()
            raise ResourceExhausted(
                self._admission.refusal(request.model_id, may_halve=request.rate != pb.MOUTH_RATE_FULL),
                retry_after_ms=_RETRY_MS,
            )
        may_halve = request.rate != pb.MOUTH_RATE_FULL
        self._admission.note_session(session_id, request.model_id, asked_frames=request.asked_frames, may_halve=may_halve)

    def note_made(self, session_id: str, request: MouthRequest, group: MouthGroup, due_s: float | None) -> None:
        """Notes frames that are made now. `due_s` is when the first of the request is due, on the clock; None: batch work."""
        frames = len(group.mouths)
        if not session_id or due_s is None:
            self._admission.note_batch(frames)
            return
        self._admission.note_session(session_id, request.model_id)
        each = 2 if request.rate == pb.MOUTH_RATE_HALVED else 1
        self._admission.note_made(frames, first_due_s=due_s + each * group.first / FRAME_RATE, apart=each)

    async def _has_room(self, session_id: str, request: MouthRequest) -> bool:
        resumed, may_halve = request.admission == pb.RESUMED_SESSION, request.rate != pb.MOUTH_RATE_FULL
        has_room = functools.partial(self._admission.has_room, session_id, request.model_id, resumed=resumed, may_halve=may_halve)
        if self._registry.find(request.model_id) is None and not has_room():
            return False  # where there is no room for any, nothing is loaded
        async with self._registry.acquire(request.model_id, version=request.avatar_version, is_live=True) as lease:
            return await self._has_room_on(lease.value, has_room)

    async def _has_room_on(self, model: LoadedModel, has_room: Callable[[], bool]) -> bool:
        engine = model.engines[0]
        self._admission.note_warm_up(engine.avatar_id, run_frames=engine.run_frames, seconds=model.warm_up_seconds)
        for _ in range(ENOUGH_RUNS):
            if has_room() or self._admission.is_measured(engine.avatar_id):
                break
            # What is known may be of a time when the machine was slower; without runs it would be believed for ever.
            await self._run_one_frame(engine)
        return has_room()

    async def _run_one_frame(self, engine: Engine) -> None:
        one = Job(engine, np.zeros((1, WINDOW_ROWS, ROW_SIZE), np.float32), np.zeros(1, np.int64), None, want_float=False)
        one.due_s = self._clock.now()
        async with aclosing(self._dispatchers[engine.device.gpu_id].submit(one)) as groups:
            async for _ in groups:
                pass
