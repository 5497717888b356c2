"""Runs one session: reads its messages, makes its frames, and sends them on its clock. The rules are in `machine`.

Three loops share the machine on one event loop: `hearing` takes messages, `grouping` makes planned frames, and `_show` sends
them. All events leave through `_show`, so they cannot overtake each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from math import ceil
from typing import Any

from avatar_kit.errors import AvatarError, AvatarReplaced
from compositing_service.sessions import events
from compositing_service.sessions.config import SessionConfig
from compositing_service.sessions.encoding import Encoding
from compositing_service.sessions.frames import Finished, MakeIdle, SendFrames, WaitForChange, WaitUntil
from compositing_service.sessions.grouping import Grouping
from compositing_service.sessions.halving import Halving
from compositing_service.sessions.hearing import Hearing
from compositing_service.sessions.idle_pictures import IdlePictures
from compositing_service.sessions.lifetime import Lifetime
from compositing_service.sessions.live_avatar import LiveAvatar, PlaceRequest, hold_ready
from compositing_service.sessions.machine import Machine
from compositing_service.sessions.making import FrameMaking, Planned
from compositing_service.sessions.parts import Send, SessionParts
from compositing_service.sessions.reporting import Reporting
from compositing_service.sessions.sending import Sending
from compositing_service.sessions.switching import Switching
from compositing_service.sessions.tables import Input
from service_kit.errors import ServiceError, as_service_errors
from shared_proto import compositing_pb2 as pb

# The clocks of sessions start at multiples of this, which divides a frame's time.
_TICK_S = 0.02
# The clock of a resumed session starts with its first frame, which is looked for so often.
_LOOK_FOR_FIRST_S = 0.1


async def open_session(
    session_id: str, config: SessionConfig, parts: SessionParts, send: Send, encoding: Encoding | None
) -> LiveSession:
    """Loads a session's avatar, and asks for a place. Close it at the end. Raises ServiceError.

    `encoding`: the stream that its frames become; None: they leave as pictures.
    """
    live = await hold_ready(
        parts.store,
        parts.resting,
        parts.source,
        config.avatar_id,
        config,
        config.start_position,
        PlaceRequest.of(config),
    )
    try:
        return LiveSession(session_id, config, parts, send, encoding, live)
    except BaseException:
        await live.release()
        raise


class LiveSession:
    """One session, from the time on that it is admitted."""

    def __init__(
        self,
        session_id: str,
        config: SessionConfig,
        parts: SessionParts,
        send: Send,
        encoding: Encoding | None,
        live: LiveAvatar,
    ) -> None:
        self.id, self.config = session_id, config
        self._clock, self._limits, self._metrics = parts.clock, parts.limits, parts.metrics
        plan, clock, now_s = config.plan, parts.clock, parts.clock.now()
        shown = live.shown(config.start_position, idle_frames=plan.in_real_time and config.idle != pb.IDLE_NONE)
        self.machine = machine = Machine(plan, shown)
        outbox = deque([events.started(session_id, config, live.avatar, parts.limits)])
        self.switching = Switching(
            parts.store, parts.resting, parts.source, config, live, outbox.append, self._wake, self.machine
        )
        making = FrameMaking(
            parts.source,
            parts.maker,
            config.pictures,
            plan.look_ahead,
            parts.limits.patience_s,
            clock,
            halving=Halving(config.allow_half_rate, parts.overload),
            made=self._note_made,
            replaced=self.switching.renew,
            numerics={config.avatar_id: config.numerics},
        )
        self.reporting = Reporting(machine, making, now_s, parts.metrics, parts.overload)
        self._idle_pictures = IdlePictures(parts.maker)
        self._lifetime = Lifetime(machine, parts.limits, outbox.append, now_s, self._cut_in)
        self._grouping = Grouping(machine, making, parts.overload, clock)
        self._sending = Sending(machine, self.switching, self.reporting, outbox, clock, send, encoding)
        self._hearing = Hearing(
            machine, config.encoding, self.switching, self._sending, self._lifetime, clock, self._interrupt, self._wake
        )
        self._changed = asyncio.Event()
        self._cut: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def run(self, messages: AsyncIterator[pb.SessionRequest]) -> None:
        """Serves it until all was sent after a half-close. Raises ServiceError otherwise."""
        await self._start_clock()
        tasks = [asyncio.create_task(loop) for loop in (self._show(), self._hearing.run(messages), self._grouping.run())]
        showing, *others = tasks
        for task in others:
            task.add_done_callback(self._look_at)
        try:
            # A failure does not wait for a reader that does not read.
            ends: list[asyncio.Future[Any]] = [showing, self._failed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not showing.done():
                raise self._failed.result()
            showing.result()
        finally:
            for task in tasks:
                task.cancel()
            self._grouping.drop()
            if self._cut:
                self._cut.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        is_whole = self.machine.input is Input.CLOSED and self.machine.has_nothing_to_show
        if self._lifetime.end and not is_whole:
            raise self._lifetime.end

    async def _start_clock(self) -> None:
        """Starts the clock at a tick that all sessions share, so that what they do at the same moment costs less."""
        start_s = now_s = self._clock.now()
        if self.config.plan.in_real_time:
            start_s = ceil(now_s / _TICK_S) * _TICK_S
            await self._clock.sleep(start_s - now_s)
        self.machine.start(start_s)

    async def close(self) -> None:
        """Lets go of its avatars."""
        await self.switching.close()

    def _look_at(self, loop: asyncio.Task[None]) -> None:
        """Ends the session with the error of a loop."""
        if not loop.cancelled() and (error := loop.exception()):
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_result(error)

    # From outside

    def leave(self, reason: pb.GoingAwayReason.ValueType, error: ServiceError, *, within_s: float) -> None:
        """Ends it after the running segment, or when the time for that is over, with `error`."""
        self._lifetime.leave(reason, error, self._clock.now(), within_s=within_s)
        self._wake()

    def stop(self, error: ServiceError) -> None:
        """Ends it now, with `error`."""
        self._fail(error)

    def check(self) -> None:
        """Ends it if its time is over, or its client has taken nothing for too long, also while a write is held up.

        Called now and then: a timer for each write would cost more.
        """
        try:
            self._lifetime.check_length(self._clock.now())
        except ServiceError as over:
            self._fail(over)
        if error := self._sending.check_reader(self._limits.reader_timeout_s):
            self._fail(error)

    # Within

    def _cut_in(self, seconds: float) -> None:
        async def cut() -> None:
            await self._clock.sleep(seconds)
            if self._lifetime.end:
                self._fail(self._lifetime.end)

        self._cut = asyncio.create_task(cut())

    def _interrupt(self) -> None:
        answer = self.machine.interrupt(self._clock.now())
        self._grouping.drop()
        self._idle_pictures.forget()
        self._metrics.session_interruptions.inc()
        self._sending.outbox.append(events.interrupted(answer))
        self._sending.note_room()

    def _wake(self) -> None:
        self._changed.set()

    def _note_made(self) -> None:
        if self.machine.is_wanted(self._clock.now()):
            self._wake()

    async def _show(self) -> None:
        machine, clock = self.machine, self._clock
        while True:
            self._changed.clear()
            now_s = clock.now()
            await self._sending.send_noted(now_s)
            if self.switching.has_work:
                await self.switching.let_go()
                await self.switching.take_new_files()
            while machine.plan_frames(now_s):
                self._grouping.planned.set()
                if self.switching.has_work:
                    await self.switching.take_new_files()
            self._lifetime.check(now_s)
            if ended := machine.ended_without_frames():
                await self._sending.send(events.segment_ended(ended))
            if self._sending.outbox:
                continue  # an interrupt came meanwhile: its answer leaves before the frame that it names
            match machine.next_step(now_s):
                case Finished():
                    break
                case SendFrames(frames):
                    await self._sending.send_frames(frames)
                case MakeIdle(frame):
                    frame.picture = frame.shown.avatar.picture_at_hand(frame.position) or [await self._idle_picture(frame)]
                    await self._sending.send_frames([frame])
                    await self._rest()
                case WaitUntil(at_s):
                    await self._wait(now_s, at_s)
                case WaitForChange():
                    await self._wait(now_s)
        await self._sending.send_noted(clock.now())

    async def _rest(self) -> None:
        """Waits for the next idle frame if nothing else has come, without another turn of the loop."""
        now_s = self._clock.now()
        if self._changed.is_set() or self._sending.outbox:
            return
        if isinstance(step := self.machine.next_step(now_s), WaitUntil):
            await self._wait(now_s, step.at_s)

    async def _wait(self, now_s: float, at_s: float = float("inf")) -> None:
        """Waits until then, until something comes or until there is something to check."""
        await self._clock.wait(self._changed, min(at_s, self._next_check_s(now_s)) - now_s)

    def _next_check_s(self, now_s: float) -> float:
        at_s = min(self._lifetime.next_check_s(), self.reporting.next_s(now_s))
        if self.machine.slots is None and self.config.plan.is_resumed:
            at_s = min(at_s, now_s + _LOOK_FOR_FIRST_S)
        return max(now_s, at_s)

    async def _idle_picture(self, frame: Planned) -> bytes:
        """Makes an idle frame; its avatar is loaded again if its files were replaced meanwhile."""
        with as_service_errors(AvatarError, field="model_id"):
            try:
                return await self._idle_pictures.picture(frame)
            except AvatarReplaced:
                if not await self.switching.renew(frame.shown.avatar):
                    raise
                frame.shown = self.machine.shown
                return await self._idle_pictures.picture(frame)
