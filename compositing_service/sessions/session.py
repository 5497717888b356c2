"""Runs one session: reads its messages, makes its frames, and sends them on its clock. The rules are in `machine`.

Three loops share the machine on one event loop: `_read` takes messages, `_make` makes planned frames, `_show` sends them. All
events leave through `_show`, so they cannot overtake each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

from avatar_kit.errors import AvatarError, AvatarReplaced
from avatar_kit.timeline import frame_at
from compositing_service.backgrounds.resting import RestingPictures
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.frame_stream import FrameMaker
from compositing_service.metrics import CompositingMetrics
from compositing_service.mouth_source import MouthSource
from compositing_service.sessions import events
from compositing_service.sessions.config import SessionConfig
from compositing_service.sessions.frames import Finished, MakeIdle, SendFrames, WaitForChange, WaitUntil
from compositing_service.sessions.idle_pictures import IdlePictures
from compositing_service.sessions.limits import SessionLimits
from compositing_service.sessions.live_avatar import LiveAvatar, hold_avatar, make_ready
from compositing_service.sessions.machine import Machine
from compositing_service.sessions.making import FrameMaking, Planned
from compositing_service.sessions.messages import sound_pieces
from compositing_service.sessions.reporting import Reporting
from compositing_service.sessions.slots import FRAME_S
from compositing_service.sessions.switching import Switching
from compositing_service.sessions.tables import Input, Message
from service_kit.clock import Clock
from service_kit.errors import DeadlineExceeded, ResourceExhausted, ServiceError, as_service_errors
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2

# Frames of one call of the network: several cost less than each alone, and more would come later.
_GROUP = 4
_GROUP_UNPACED = 16
# A group waits to become full until its first frame is due within this time.
_HURRY_S = 0.12
# The clocks of sessions start at multiples of this, which divides a frame's time.
_TICK_S = 0.01
# Waits shorter than this are those of the machine, and make no frame late.
_SLOW_WRITE_S = FRAME_S

# Answers to interrupts and switches that wait for a slow reader; no further message is read meanwhile.
_MOST_UNSENT = 64

Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SessionParts:
    """The parts of the service that sessions use."""

    store: BackgroundStore
    resting: RestingPictures
    source: MouthSource
    maker: FrameMaker
    metrics: CompositingMetrics
    limits: SessionLimits
    clock: Clock


async def open_session(session_id: str, config: SessionConfig, parts: SessionParts, send: Send) -> LiveSession:
    """Loads a session's avatar, and asks for a place. Close it at the end. Raises ServiceError."""
    live = await hold_avatar(parts.store, parts.resting, config.avatar_id, config)
    try:
        in_real_time = config.plan.in_real_time
        admission = inference_pb2.RESUMED_SESSION if config.plan.is_resumed else inference_pb2.NEW_SESSION
        admission = admission if in_real_time else inference_pb2.ADMITTED
        await make_ready(parts.source, live, config.start_position, in_real_time=in_real_time, admission=admission)
        return LiveSession(session_id, config, parts, send, live)
    except BaseException:
        await live.release()
        raise


class LiveSession:
    """One session, from the time on that it is admitted."""

    def __init__(self, session_id: str, config: SessionConfig, parts: SessionParts, send: Send, live: LiveAvatar) -> None:
        self.id, self.config = session_id, config
        self._parts, self._clock, self._limits, self._write = parts, parts.clock, parts.limits, send
        plan = config.plan
        shown = live.shown(config.start_position, idle_frames=plan.in_real_time and config.idle != pb.IDLE_NONE)
        self.machine = Machine(plan, shown)
        self.switching = Switching(parts.store, parts.resting, parts.source, config, live, self._note, self._wake, self.machine)
        self._making = FrameMaking(
            parts.source,
            parts.maker,
            config.output,
            plan.look_ahead,
            self._limits.patience_s,
            self._clock,
            made=self._note_made,
            replaced=self.switching.renew,
        )
        self._idle_pictures = IdlePictures(parts.maker)
        now_s = self._last_sign_s = self._clock.now()  # of life, for the idle time-out
        self.reporting = Reporting(self.machine, self._making, now_s, parts.metrics)
        self._outbox = deque([events.started(session_id, config, live.avatar, self._limits)])
        self._changed, self._planned, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._group: asyncio.Task[None] | None = None  # frames that are being made
        self._failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._writing_since_s = float("inf")  # a message that the client has not taken
        self._end: ServiceError | None = None  # once it leaves
        self._ends_at_s = float("inf")
        most_s = self._limits.max_session_s
        # Of a short session at least the first half is without a warning.
        self._leaving_s = min(self._limits.leaving_s, most_s / 2)
        self._leave_at_s = now_s + most_s - self._leaving_s if most_s else float("inf")

    async def run(self, messages: AsyncIterator[pb.SessionRequest]) -> None:
        """Serves it until all was sent after a half-close. Raises ServiceError otherwise."""
        await self._start_clock()
        tasks = [asyncio.create_task(loop) for loop in (self._show(), self._read(messages), self._make())]
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
            tasks += [self._group] if self._group else []
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        is_whole = self.machine.input is Input.CLOSED and self.machine.has_nothing_to_show
        if self._end and not is_whole:
            raise self._end

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
        if self._end is None:
            self._end = error
            self._ends_at_s = self._clock.now() + within_s
            self.machine.leave()
            self._note(events.going_away(reason, within_s))
            self._wake()

    def stop(self, error: ServiceError) -> None:
        """Ends it now, with `error`."""
        self._fail(error)

    def check_reader(self) -> None:
        """Ends it if its client has taken nothing for too long. Called now and then: a timer for each write would cost more."""
        limit_s = self._limits.reader_timeout_s
        if self._clock.now() - self._writing_since_s >= limit_s:
            self._fail(ResourceExhausted(f"the reader took nothing for {limit_s:g} s"))

    # Messages

    async def _read(self, messages: AsyncIterator[pb.SessionRequest]) -> None:
        async for message in messages:
            self._last_sign_s = self._clock.now()
            if message.WhichOneof("message") == "audio":
                sound = message.audio.data
                del message  # it may be large, and waits for room
                await self._hear(sound)
            else:
                await self._take(message)
            while len(self._outbox) >= _MOST_UNSENT:
                await self._next_room()
        self.machine.end_of_segment(Message.HALF_CLOSE)
        self._wake()

    async def _hear(self, sound: bytes) -> None:
        """Takes sound, a little at a time as there is room for it. Other messages need no room, so that interrupts are heard."""
        machine, rate = self.machine, self.config.plan.rate
        for piece in await sound_pieces(sound, self.config.encoding, rate):
            most_ms = (self._limits.max_buffered_s - len(piece) / rate) * 1000
            while machine.buffered_ms > most_ms or not machine.reads_sound:
                await self._next_room()
            machine.sound(piece)
            if machine.can_plan():
                self._wake()

    async def _next_room(self) -> None:
        """Waits until something was sent or dropped."""
        self._room.clear()
        await self._room.wait()

    async def _take(self, message: pb.SessionRequest) -> None:
        machine = self.machine
        match message.WhichOneof("message"):
            case "end_of_segment":
                machine.end_of_segment()
            case "interrupt":
                self._interrupt()
            case "switch_avatar":
                machine.message(Message.SWITCH_AVATAR)
                await self.switching.begin(message.switch_avatar)
            case "config":
                machine.message(Message.CONFIG)
            case _:
                return
        self._wake()

    def _interrupt(self) -> None:
        answer = self.machine.interrupt(self._clock.now())
        if self._group:
            self._group.cancel()
        self._idle_pictures.forget()
        self._parts.metrics.session_interruptions.inc()
        self._note(events.interrupted(answer))
        self._room.set()

    # Frames

    async def _make(self) -> None:
        while True:
            self._planned.clear()
            group, wait_s = self._next_group()
            if wait_s is not None:
                await self._clock.wait(self._planned, wait_s)
                continue
            if not group:
                await self._planned.wait()
                continue
            self._group = asyncio.create_task(self._making.make(group, due_in_ms=self._due_in_ms(group[0])))
            try:
                await self._group
            except asyncio.CancelledError:
                own = asyncio.current_task()
                if not self._group.cancelled() or (own and own.cancelling()):  # else an interrupt dropped the group
                    raise
            self._group = None

    def _next_group(self) -> tuple[list[Planned], float | None]:
        """Returns the frames to make together, and for how long to wait for more of them first; None: not at all."""
        todo = [frame for frame in self.machine.planned if frame.picture is None]
        most = _GROUP if self.config.plan.in_real_time else _GROUP_UNPACED
        group: list[Planned] = []
        for frame in todo[:most]:
            if group and (frame.segment is not group[0].segment or frame.shown is not group[0].shown):
                return group, None
            group.append(frame)
        if group and len(group) < most and not group[-1].is_last and self.machine.slots:
            spare_s = self.machine.slots.time_of(group[0].number) - self._clock.now() - _HURRY_S
            if spare_s > 0:
                return group, spare_s
        return group, None

    def _due_in_ms(self, frame: Planned) -> int:
        slots = self.machine.slots
        if slots is None:
            return 1 if self.config.plan.in_real_time else 0
        return max(1, round((slots.time_of(frame.number) - self._clock.now()) * 1000))

    async def _show(self) -> None:
        machine, clock = self.machine, self._clock
        while True:
            self._changed.clear()
            now_s = clock.now()
            await self._send_noted(now_s)
            if self.switching.has_work:
                await self.switching.let_go()
                await self.switching.take_new_files()
            while machine.plan_frames(now_s):
                self._planned.set()
                if self.switching.has_work:
                    await self.switching.take_new_files()
            self._check_time(now_s)
            if ended := machine.ended_without_frames():
                await self._send(events.segment_ended(ended))
            if self._outbox:
                continue  # an interrupt came meanwhile: its answer leaves before the frame that it names
            match machine.next_step(now_s):
                case Finished():
                    break
                case SendFrames(frames):
                    await self._send_frames(frames)
                case MakeIdle(frame):
                    frame.picture = frame.shown.avatar.picture_at_hand(frame.position) or [await self._idle_picture(frame)]
                    await self._send_frames([frame])
                case WaitUntil(at_s):
                    await clock.wait(self._changed, min(at_s, self._next_check_s(now_s)) - now_s)
                case WaitForChange():
                    await clock.wait(self._changed, self._next_check_s(now_s) - now_s)
        await self._send_noted(clock.now())

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

    def _check_time(self, now_s: float) -> None:
        """Begins to leave, or ends the session, when its time has come."""
        limits, machine = self._limits, self.machine
        if now_s >= self._leave_at_s and self._end is None:
            error = DeadlineExceeded("the session has lasted for as long as one may")
            self.leave(pb.GOING_AWAY_SESSION_LENGTH, error, within_s=self._leaving_s)
        if now_s >= self._ends_at_s and self._end:
            raise self._end
        if machine.planned or machine.input is Input.CLOSED:
            self._last_sign_s = now_s
        if limits.idle_timeout_s and now_s >= self._last_sign_s + limits.idle_timeout_s:
            raise DeadlineExceeded(f"no message came for {limits.idle_timeout_s:g} s")

    def _next_check_s(self, now_s: float) -> float:
        times = [self._leave_at_s if self._end is None else self._ends_at_s, self.reporting.next_s(now_s)]
        if not self.machine.planned and self._limits.idle_timeout_s:
            times.append(self._last_sign_s + self._limits.idle_timeout_s)
        if self.machine.slots is None and self.config.plan.is_resumed:
            times.append(now_s + 0.1)
        return max(now_s, min(times))

    # Sending

    def _note(self, event: pb.SessionEvent) -> None:
        """Lets an event leave before the next frame."""
        self._outbox.append(event)

    def _wake(self) -> None:
        self._changed.set()

    def _note_made(self) -> None:
        if self.machine.is_wanted(self._clock.now()):
            self._wake()

    async def _send_noted(self, now_s: float) -> None:
        while self._outbox:
            await self._send(self._outbox.popleft())
            self._room.set()
        if status := self.reporting.status(now_s):
            await self._send(status)

    async def _send_frames(self, frames: list[Planned]) -> None:
        now_s = self._clock.now()
        batch = events.FrameBatch()
        for frame in frames:
            if batch.is_full(frame):
                await self._send(batch.take())
            if self.machine.is_next(frame) and (announcements := self.switching.announcements(frame)):
                if len(batch):
                    await self._send(batch.take())
                for event in announcements:
                    await self._send(event)
            if not self.machine.is_next(frame):
                break  # an interrupt or a switch came while it was made, or an event before it was written
            ended = self.machine.sent(frame, now_s)
            self.reporting.sent(frame, now_s)
            batch.add(frame, self._index(frame.shown.avatar, frame.position))
            if ended:
                await self._send(batch.take())
                await self._send(events.segment_ended(ended))
        if len(batch):
            await self._send(batch.take())
        self._room.set()

    async def _send(self, event: pb.SessionEvent | bytes) -> None:
        clock = self._clock
        began_s = self._writing_since_s = clock.now()
        await self._write(event if isinstance(event, bytes) else event.SerializeToString())
        self._writing_since_s = float("inf")
        now_s = clock.now()
        self.reporting.event_sent(now_s)
        if now_s - began_s > _SLOW_WRITE_S and self.machine.slots:
            head = self.machine.planned[0].number if self.machine.planned else self.machine.next_number(now_s)
            self.machine.slots.pause(head, now_s - began_s, now_s)

    def _index(self, live: LiveAvatar, position: int) -> int:
        return frame_at(position, live.avatar.frame_count, live.avatar.loop)
