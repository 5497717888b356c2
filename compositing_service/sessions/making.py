"""Makes the pictures of planned frames: sound to rows, rows to mouths, mouths to pictures, with patience for a lost service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TypeAlias

from avatar_kit.errors import AvatarError, AvatarReplaced
from compositing_service.backgrounds.composer import Mouth, Pieces
from compositing_service.frame_stream import FrameMaker, Times
from compositing_service.mouth_source import FITS, GrowingSound, MouthOrder, Mouths, MouthSource, Rows, Sound
from compositing_service.outputs import Output
from compositing_service.sessions.frames import PlannedFrame
from compositing_service.sessions.halving import Halving
from compositing_service.sessions.live_avatar import LiveAvatar
from compositing_service.sessions.rows import SegmentRows
from compositing_service.sessions.segment import SOUND_KEPT_FRAMES, Segment
from compositing_service.upstream.errors import InferenceFailed
from service_kit import request_context, tracing
from service_kit.clock import Clock
from service_kit.deadline import Deadline
from service_kit.errors import Aborted, DeadlineExceeded, ResourceExhausted, ServiceError, Unavailable, as_service_errors
from shared_proto.timing import ROWS_BEFORE, SAMPLES_A_FRAME

# Sound that a row reads beyond its own frame, and before it, in whole frames.
_SOUND_AFTER = 6
_SOUND_BEFORE = 1
# Sound that a frame reads before and after its start at the most, in samples: 395 and 452.5 ms.
_SAMPLES_BEFORE, _SAMPLES_AFTER = 6320, 7240
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
    encoded_frames: int = 0
    encode_ms: float = 0.0

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
    """Seconds that the inference service may be away before the session fails."""
    clock: Clock
    halving: Halving
    made: Callable[[], None]
    """Called when a picture is there."""
    replaced: Callable[[LiveAvatar], Awaitable[bool]]
    """Loads an avatar again whose files seem to be replaced; False if they are the same."""
    numerics: dict[str, str] = field(default_factory=dict)
    """Those of the latest mouths of each avatar that was shown, or that a resumed session had."""
    times: StageTimes = field(default_factory=StageTimes)
    _rows: SegmentRows = field(init=False)
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
            except InferenceFailed:
                if not self.halving.give_up():
                    raise
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
        """Makes the first of these frames, as many as are made in one way."""
        live, segment = frames[0].shown.avatar, frames[0].segment
        assert segment
        segment.sound.drop_before(frames[0].frame - SOUND_KEPT_FRAMES)
        request_context.avatar_id.set(live.avatar.id)  # of a switch, other than the call's
        silent, alike = next(groupby(frames, lambda frame: _is_silent(frame) and not live.needs_network(frame.position)))
        if silent:
            await self._make_silent(live, list(alike))
        else:
            await self._make_spoken(live, list(alike), due_in_ms)

    async def _make_silent(self, live: LiveAvatar, frames: Sequence[Planned]) -> None:
        """Makes silent frames without the network, but for those whose mouth of silence was dropped just now."""
        for frame in frames:
            frame.picture = live.picture_at_hand(frame.position)
        if rest := [frame for frame in frames if frame.picture is None]:
            positions = [frame.position for frame in rest]
            pictures = await asyncio.get_running_loop().run_in_executor(self.maker.pool, live.silent_pictures, positions)
            for frame, picture in zip(rest, pictures, strict=True):
                frame.picture = None if picture is None else [picture]
        self.made()

    async def _make_spoken(self, live: LiveAvatar, frames: Sequence[Planned], due_in_ms: int) -> None:
        """Makes these frames, or at half rate the first of them alone, where it repeats the mouth before it."""
        avatar, segment = live.avatar, frames[0].segment
        assert segment
        if (mouth := self.halving.mouth_before(frames[0])) is not None:
            await self._repeat(live, frames[0], mouth)
            return
        order = MouthOrder(
            avatar.id,
            avatar.version,
            live.indices(frame.position for frame in frames),
            self._sound_for(frames, segment, live),
            due_in_ms=due_in_ms,
            fit=FITS[avatar.paste],
            numerics=self.numerics.get(avatar.id, ""),
            rate=self.halving.rate,
        )
        with tracing.span("mouths", frames=len(frames)):
            await self._paint(live, frames, order)
        if quiet := [frame for frame in frames if frame.picture is None]:  # as is known only now
            await self._make_silent(live, quiet)

    async def _paint(self, live: LiveAvatar, frames: Sequence[Planned], order: MouthOrder) -> None:
        """Paints the mouths of an order as they come."""
        avatar, first = live.avatar, 0
        async with aclosing(self.source.mouths(order, deadline=self._deadline())) as groups:
            async for group in groups:
                self.numerics[avatar.id] = group.numerics or order.numerics
                self.halving.overload.note(group.overload)
                if group.rows:
                    self._hear(frames, group.rows, group.audio_ms)
                here = slice(first, first + order.step * len(group.pixels))
                first = here.stop
                shown = frames[here]
                is_halved = order.step > 1
                each = replace(group, pixels=[mouth for mouth in group.pixels for _ in range(order.step)][: len(shown)])
                painted = await self.maker.paint(live.lease.value, order.frames[here], each, self.output, repeated=is_halved)
                self._take(live, shown, painted, group.numerics)
                if is_halved and len(shown) % order.step and shown[-1].picture is not None:
                    self.halving.made(shown[-1], group.pixels[-1])

    async def _repeat(self, live: LiveAvatar, frame: Planned, mouth: Mouth) -> None:
        """Makes a frame with the mouth of the one before it."""
        again = Mouths([mouth], queue_ms=0.0, inference_ms=0.0, audio_ms=0.0, gpu_id=-1)
        indices = live.indices([frame.position])
        self._take(live, [frame], await self.maker.paint(live.lease.value, indices, again, self.output, repeated=True))

    def _sound_for(self, frames: Sequence[Planned], segment: Segment, live: LiveAvatar) -> GrowingSound:
        """Returns the known rows of successive frames, and the sound of the others."""
        of = (segment, live.encoder)
        if self._rows_of != of:
            self._rows, self._rows_of = SegmentRows(self.look_ahead), of
        rows, first = self._rows, frames[0].frame
        known, data, start = rows.known_to(first), b"", first
        stop = rows.stop_for(frames[-1].frame)
        if rows.stop < stop:
            data, start = segment.sound.frames_from(max(0, rows.stop - _SOUND_BEFORE), stop + _SOUND_AFTER)
            data = data or bytes(4)
        return GrowingSound(known, Sound(data, lead_in_frames=first - start, start_frame=start), self.look_ahead)

    def _hear(self, frames: Sequence[Planned], rows: Rows, audio_ms: float) -> None:
        """Takes in what comes with the first mouths: new rows, and so which of the frames speak."""
        self._rows.add(rows)
        self.times.audio_ms += audio_ms
        for frame in frames:
            frame.speech = not self._rows.is_silent(frame.frame)

    def _take(
        self, live: LiveAvatar, frames: Sequence[Planned], painted: Sequence[tuple[list[Pieces], Times]], numerics: str = ""
    ) -> None:
        """Gives their pictures to the frames that are shown with their mouths."""
        waiting = iter(frames)
        for pictures, times in painted:
            for picture, frame in zip(pictures, waiting, strict=False):
                self.times.add(times)
                if frame.speech or live.rests:
                    frame.picture, frame.numerics = picture, numerics
        self.made()

    def _deadline(self) -> Deadline:
        """Leaves time for another try, on another endpoint where one hangs."""
        return Deadline.after(self.patience_s / 2, clock=self.clock)


def _is_silent(frame: Planned) -> bool:
    """Tells if all the sound that a frame reads is zero, so that the network need not say it."""
    assert frame.segment
    first = SAMPLES_A_FRAME * frame.frame
    return frame.segment.sound.is_zero(first - _SAMPLES_BEFORE, first + _SAMPLES_AFTER)


assert max(_SAMPLES_BEFORE, SAMPLES_A_FRAME * (ROWS_BEFORE + _SOUND_BEFORE)) <= SAMPLES_A_FRAME * SOUND_KEPT_FRAMES
