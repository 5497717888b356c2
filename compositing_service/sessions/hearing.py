"""Reads the messages of a session, as far as there is room for what they bring."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from compositing_service.sessions.lifetime import Lifetime
from compositing_service.sessions.live_avatar import LiveAvatar
from compositing_service.sessions.machine import Machine
from compositing_service.sessions.messages import sound_pieces
from compositing_service.sessions.sending import Sending
from compositing_service.sessions.switching import Switching
from compositing_service.sessions.tables import Message
from service_kit.clock import Clock
from shared_proto import compositing_pb2 as pb


@dataclass(eq=False, slots=True)
class Hearing:
    """Reads for one session."""

    machine: Machine[LiveAvatar]
    encoding: pb.AudioEncoding.ValueType
    switching: Switching
    sending: Sending
    lifetime: Lifetime
    clock: Clock
    interrupt: Callable[[], None]
    wake: Callable[[], None]
    """Called when there may be something to show."""

    async def run(self, messages: AsyncIterator[pb.SessionRequest]) -> None:
        """Takes all messages until the client has closed its side. Raises InvalidRequest."""
        async for message in messages:
            self.lifetime.last_sign_s = self.clock.now()
            if message.WhichOneof("message") == "audio":
                sound = message.audio.data
                del message  # it may be large, and waits for room
                await self._hear(sound)
            else:
                await self._take(message)
            while self.sending.is_full:
                await self.sending.next_room()
        self.machine.end_of_segment(Message.HALF_CLOSE)
        self.wake()

    async def _hear(self, sound: bytes) -> None:
        """Takes sound, a little at a time as there is room for it. Other messages need no room, so that interrupts are heard."""
        machine, rate = self.machine, self.machine.plan.rate
        for piece in await sound_pieces(sound, self.encoding, rate):
            most_ms = (self.lifetime.limits.max_buffered_s - len(piece) / rate) * 1000
            while machine.buffered_ms > most_ms or not machine.reads_sound:
                await self.sending.next_room()
            machine.sound(piece)
            if machine.can_plan():
                self.wake()

    async def _take(self, message: pb.SessionRequest) -> None:
        machine = self.machine
        match message.WhichOneof("message"):
            case "end_of_segment":
                machine.end_of_segment()
            case "interrupt":
                self.interrupt()
            case "switch_avatar":
                machine.message(Message.SWITCH_AVATAR)
                await self.switching.begin(message.switch_avatar)
            case "request_key_frame":
                machine.message(Message.REQUEST_KEY_FRAME)
                self.sending.request_key_frame()
                return
            case "config":
                machine.message(Message.CONFIG)
            case _:
                return
        self.wake()
