"""Makes the pictures of planned frames: sound to rows, rows to mouths, mouths to pictures, with patience for a lost service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

from avatar_kit.errors import AvatarError, AvatarReplaced
from compositing_service.frame_stream import FrameMaker, Times
from compositing_service.mouth_source import FITS, MouthOrder, MouthSource, Sound
from compositing_service.outputs import Output
from compositing_service.sessions.live_avatar import LiveAvatar
from compositing_service.sessions.machine import PlannedFrame
from compositing_service.sessions.rows import SegmentRows
from compositing_service.sessions.segment import SOUND_KEPT_FRAMES, Segment
from service_kit import request_context
from service_kit.clock import Clock
from service_kit.deadline import Deadline
from service_kit.errors import Aborted, DeadlineExceeded, ResourceExhausted, ServiceError, Unavailable, as_service_errors
from shared_proto.timing import ROWS_BEFORE, SAMPLE_RATE_HZ

# Sound that a row reads beyond its own frame, and before it, in whole frames.
_SOUND_AFTER = 6
_SOUND_BEFORE = 1
_RETRY_S = 0.1

log = logging.getLogger(__name__)

Planned: TypeAlias = PlannedFrame[LiveAvatar]


@dataclass(slots=True)
class StageTimes:
    """Sums of milliseconds, for means a frame."""

    frames: int = 0
    queue_ms: float = 0.0
    audio_ms: float = 0.0
    inference_ms: float = 0.0
    composite_ms: float = 0.0

    def add(self, times: Times) -> None:
        """Adds those of one frame."""
        self.frames += 1
        self.queue_ms += times.queue_ms
        self.inference_ms += times.inference_ms
        self.composite_ms += times.composite_ms


@dataclass(slots=True, eq=False)
class FrameMaking:
    """Makes frames for one session, one group at a time."""

    source: MouthSource
    maker: FrameMaker
    output: Output
    look_ahead: int
    patience_s: float
    """How long the inference service may be away before the session fails."""
    clock: Clock
    made: Callable[[], None]
    """Called when a picture is there."""
    replaced: Callable[[LiveAvatar], Awaitable[bool]]
    """Loads an avatar again whose files seem to be replaced; False if they are the same."""
    times: StageTimes = field(default_factory=StageTimes)
    _rows: SegmentRows | None = None
    _rows_of: tuple[Segment, object] | None = None

    async def make(self, frames: Sequence[Planned], *, due_in_ms: int) -> None:
        """Makes the pictures of successive frames of one segment and one avatar. Tries again while inference is away.

        Raises ServiceError when it stays away, or for an error that another try does not mend.
        """
        given_up_s, is_told = self.clock.now() + self.patience_s, False
        while True:
            todo = [frame for frame in frames if frame.picture is None]
            if not todo:
                return
            try:
                with as_service_errors(AvatarError, field="model_id"):
                    await self._make(todo, due_in_ms)
                continue
            except (Unavailable, DeadlineExceeded, ResourceExhausted) as error:
                if any(frame.picture is not None for frame in todo):
                    given_up_s = self.clock.now() + self.patience_s
                if not is_told:
                    log.warning("a session waits for the inference service: %s", error)
                    is_told = True
                await self._wait(error, given_up_s)
            except (AvatarReplaced, Aborted):
                if not await self.replaced(todo[0].shown.avatar):
                    raise

    async def _wait(self, error: ServiceError, given_up_s: float) -> None:
        pause_s = _RETRY_S
        if isinstance(error, ResourceExhausted):
            if error.retry_after_ms is None:
                raise error
            pause_s = max(pause_s, error.retry_after_ms / 1000)
        if self.clock.now() + pause_s > given_up_s:
            raise Unavailable(f"the inference service cannot be used: {error.message}") from error
        await self.clock.sleep(pause_s)

    async def _make(self, frames: Sequence[Planned], due_in_ms: int) -> None:
        live, segment = frames[0].shown.avatar, frames[0].segment
        assert segment
        request_context.avatar_id.set(live.avatar.id)  # of a switch, other than the call's
        rows = await self._rows_for(segment, live, frames, due_in_ms)
        for frame in frames:
            frame.speech = not rows.is_silent(frame.frame)
        spoken = [frame for frame in frames if frame.speech or live.needs_network(frame.position)]
        if silent := [frame for frame in frames if frame not in spoken]:
            await self._make_silent(live, silent)
        if spoken:
            await self._make_spoken(live, rows, spoken, due_in_ms)

    async def _rows_for(self, segment: Segment, live: LiveAvatar, frames: Sequence[Planned], due_in_ms: int) -> SegmentRows:
        """Computes the rows that are missing for these frames."""
        first = frames[0].frame
        of = (segment, live.encoder)
        if self._rows is None or self._rows_of != of:
            self._rows, self._rows_of = SegmentRows.for_frame(first, self.look_ahead), of
        rows = self._rows
        rows.drop_before(first)
        stop = rows.stop_for(frames[-1].frame)
        if (count := stop - rows.stop) > 0:
            begin = max(0, rows.stop - _SOUND_BEFORE)
            data, start = segment.sound.frames_from(begin, stop + _SOUND_AFTER)
            sound = Sound(data or bytes(4), sample_rate=SAMPLE_RATE_HZ, start_frame=start)
            new = await self.source.rows(
                sound,
                first_row=rows.stop,
                count=count,
                avatar_id=live.avatar.id,
                deadline=self._deadline(),
                due_in_ms=due_in_ms,
            )
            rows.add(new)
            self.times.audio_ms += new.audio_ms
        segment.sound.drop_before(first - SOUND_KEPT_FRAMES)
        return rows

    async def _make_silent(self, live: LiveAvatar, frames: Sequence[Planned]) -> None:
        """Makes silent frames without the network, but for those whose mouth of silence was dropped just now."""
        positions = [frame.position for frame in frames]
        pictures = await asyncio.get_running_loop().run_in_executor(self.maker.pool, live.silent_pictures, positions)
        for frame, picture in zip(frames, pictures, strict=True):
            frame.picture = picture
        self.made()

    async def _make_spoken(self, live: LiveAvatar, rows: SegmentRows, frames: Sequence[Planned], due_in_ms: int) -> None:
        avatar = live.avatar
        positions = [frame.position for frame in frames]
        order = MouthOrder(
            avatar.id,
            avatar.version,
            live.indices(positions),
            rows.speech([frame.frame for frame in frames]),
            due_in_ms=due_in_ms,
            fit=FITS[avatar.paste],
        )
        mouths = self.source.mouths(order, deadline=self._deadline())
        stream = self.maker.frame_stream(live.lease.value, positions, mouths, self.output, ahead=len(frames))
        async with aclosing(stream) as pictures:
            waiting = iter(frames)
            async for picture in pictures:
                next(waiting).picture = picture.picture
                self.times.add(picture.times)
                self.made()

    def _deadline(self) -> Deadline:
        """Leaves time for another try, on another endpoint where one hangs."""
        return Deadline.after(self.patience_s / 2, clock=self.clock)


assert ROWS_BEFORE + 1 <= SOUND_KEPT_FRAMES
