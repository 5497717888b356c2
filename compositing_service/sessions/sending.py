"""Sends the events of a session in their order, and notices a client that takes none."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from avatar_kit.timeline import frame_at
from compositing_service.sessions import events
from compositing_service.sessions.encoding import Encoding
from compositing_service.sessions.live_avatar import LiveAvatar
from compositing_service.sessions.machine import Machine
from compositing_service.sessions.making import Planned
from compositing_service.sessions.parts import Send
from compositing_service.sessions.reporting import Reporting
from compositing_service.sessions.slots import FRAME_S
from compositing_service.sessions.switching import Switching
from service_kit.clock import Clock
from service_kit.errors import ResourceExhausted
from shared_proto import compositing_pb2 as pb

# Waits shorter than this are those of the machine, and make no frame late.
_SLOW_WRITE_S = FRAME_S
# Answers to interrupts and switches that wait for a slow reader; no further message is read meanwhile.
_MOST_UNSENT = 64


@dataclass(eq=False, slots=True)
class Sending:
    """Sends for one session. Use it from one task, but for `note` and `check_reader`."""

    machine: Machine[LiveAvatar]
    switching: Switching
    reporting: Reporting
    outbox: deque[pb.SessionEvent]
    """Events that leave before the next frame."""
    clock: Clock
    _write: Send
    _encoding: Encoding | None = None
    """None: pictures leave as they are."""
    _told: tuple[object, str] = (None, "")
    """The avatar as it was shown, and the numerics of its mouths, as the client knows them."""
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    _writing_since_s: float = float("inf")
    """When a message began to be written that the client has not taken."""

    async def next_room(self) -> None:
        """Waits until something was sent or dropped."""
        self._room.clear()
        await self._room.wait()

    def note_room(self) -> None:
        """Notes that something was dropped."""
        self._room.set()

    @property
    def is_full(self) -> bool:
        """Tells if no further message should be read, as many events have not left."""
        return len(self.outbox) >= _MOST_UNSENT

    def check_reader(self, limit_s: float) -> ResourceExhausted | None:
        """Returns the error for a client that has taken nothing for `limit_s` seconds."""
        if self.clock.now() - self._writing_since_s >= limit_s:
            return ResourceExhausted(f"the reader took nothing for {limit_s:g} s")
        return None

    def request_key_frame(self) -> None:
        """Makes the next frame a key frame."""
        if self._encoding:
            self._encoding.request_key_frame()

    async def send_noted(self, now_s: float) -> None:
        """Sends the events that are noted, and the status if it is due."""
        while self.outbox:
            await self.send(self.outbox.popleft())
            self._room.set()
        if status := self.reporting.status(now_s):
            await self.send(status)

    async def send_frames(self, frames: Sequence[Planned]) -> None:
        """Sends finished frames that are due, with the events that belong before and after them."""
        now_s = self.clock.now()
        batch = events.FrameBatch()
        for frame in frames:
            picture, is_key = frame.picture or (), False
            if self._encoding and self.machine.is_next(frame):
                packet, ms = await self._encoding.encode(frame)
                self.reporting.encoded(ms)
                picture, is_key = [packet.data], packet.is_key
                now_s = self.clock.now()
            if batch.is_full(picture):
                await self.send(batch.take())
            if self.machine.is_next(frame) and (announcements := self.switching.announcements(frame)):
                if len(batch):
                    await self.send(batch.take())
                for event in announcements:
                    await self.send(event)
            if not self.machine.is_next(frame):
                break  # an interrupt or a switch came while it was made, or an event before it was written
            ended = self.machine.sent(frame, now_s)
            self.reporting.sent(frame, now_s)
            avatar = frame.shown.avatar.avatar
            index = frame_at(frame.position, avatar.frame_count, avatar.loop)
            batch.add(frame, picture, index=index, key_frame=is_key, numerics=self._news_of(frame))
            if self._encoding:
                self._encoding.sent()
            if self._encoding or ended:  # encoding the next one takes long beside a message
                await self.send(batch.take())
            if ended:
                await self.send(events.segment_ended(ended))
        if len(batch):
            await self.send(batch.take())
        self._room.set()

    def _news_of(self, frame: Planned) -> str:
        """Returns the frame's numerics if the client does not know them; else ""."""
        now = frame.shown, frame.numerics
        if not frame.numerics or now == self._told:
            return ""
        self._told = now
        return frame.numerics

    async def send(self, event: pb.SessionEvent | bytes) -> None:
        """Writes an event. The time that a slow reader takes makes no frame late."""
        began_s = self._writing_since_s = self.clock.now()
        await self._write(event if isinstance(event, bytes) else event.SerializeToString())
        self._writing_since_s = float("inf")
        now_s = self.clock.now()
        self.reporting.event_sent(now_s)
        if now_s - began_s > _SLOW_WRITE_S and self.machine.slots:
            head = self.machine.planned[0].number if self.machine.planned else self.machine.next_number(now_s)
            self.machine.slots.pause(head, now_s - began_s, now_s)
