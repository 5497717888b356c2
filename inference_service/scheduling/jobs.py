"""A request's frames on their way through a device: what is asked of the engine, and what the request gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference_service.audio.encoder import EncodedRows
from inference_service.engines.engine import NO_PICTURES, Engine, EngineInput, EngineOutput
from inference_service.scheduling.fair_queue import Slice
from service_kit.errors import ServiceError

NO_FRAMES = np.empty(0, np.int64)


@dataclass(frozen=True)
class MouthGroup:
    """Mouths of consecutive frames of one request, and the times that they took."""

    first: int
    mouths: NDArray[np.float32] | NDArray[np.uint8]  # [count, 3, 320, 320] float32 or [count, 320, 320, 3] uint8
    audio_seconds: float
    queue_seconds: float
    run_seconds: float
    worker_id: int
    gpu_id: int


@dataclass(eq=False)
class Job:
    """A request's frames on their way through one engine."""

    engine: Engine
    windows: NDArray[np.float32]  # [frames, 16, 512]
    frames: NDArray[np.int64] | None  # [frames], indices of the avatar's own crops
    pictures: NDArray[np.float32] | None  # [1 or frames, 6, 320, 320], sent by the caller instead
    want_float: bool
    deadline_s: float | None = None  # on the dispatcher's clock
    due_s: float | None = None  # when the first frame is due, on the same clock; None: batch work
    audio_seconds: float = 0.0
    new_rows: EncodedRows | None = None  # computed for the request, for its caller to keep
    numerics: str = ""  # the way that its mouths are computed
    on_run: Callable[[float], None] = lambda _seconds: None
    queued_at_s: float = field(default=0.0, init=False)
    context: Context = field(default_factory=copy_context, init=False)  # of the request, for log lines
    results: asyncio.Queue[MouthGroup | ServiceError] = field(default_factory=asyncio.Queue, init=False)

    @property
    def count(self) -> int:
        """Frames of the whole request."""
        return len(self.windows)

    def part(self, start: int, count: int) -> EngineInput:
        """Returns the input for `count` frames from `start` on."""
        frames, pictures, here = self.frames, self.pictures, slice(start, start + count)
        if pictures is not None:
            pictures = np.broadcast_to(pictures, (count, *pictures.shape[1:])) if len(pictures) == 1 else pictures[here]
        return EngineInput(
            windows=self.windows[here],
            frames=NO_FRAMES if frames is None else frames[here],
            pictures=NO_PICTURES if pictures is None else pictures,
            want_float=self.want_float,
            want_uint8=not self.want_float,
        )


def run_batch(pieces: Sequence[Slice[Job]]) -> EngineOutput:
    """Runs pieces of jobs of one engine together, those with the avatar's own crops first. Blocking. Raises EngineError."""
    parts = [piece.request.part(piece.start, piece.count) for piece in pieces]
    return pieces[0].request.engine.run(
        EngineInput(
            windows=_joined([part.windows for part in parts]),
            frames=np.concatenate([part.frames for part in parts]),
            pictures=_joined([part.pictures for part in parts]),
            want_float=any(part.want_float for part in parts),
            want_uint8=any(part.want_uint8 for part in parts),
        )
    )


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))
