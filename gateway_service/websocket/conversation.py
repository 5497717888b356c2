"""One session between a browser's socket and a compositing service.

Five tasks: one reads the socket, one gives the session what was read, one writes what the session sends, one waits for the
gateway's own end, and one for the session to be left alone. The first that ends ends the others.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import NoReturn

import grpc
from aiohttp import WSCloseCode, WSMsgType, web

from gateway_service.parts import GatewayParts
from gateway_service.problems import told_to_caller
from gateway_service.running_sessions import RunningSession
from gateway_service.socket_reader import SocketReader
from gateway_service.speaking import SpeechFailed
from gateway_service.usage import Usage
from gateway_service.websocket.ending import Ending, client_left, failed, invalid
from gateway_service.websocket.events import event_text, jump_text, session_text
from gateway_service.websocket.frames import frame_header
from gateway_service.websocket.idleness import Idleness
from gateway_service.websocket.inbox import Close, EndOfSegment, Inbox, SoundPieces
from gateway_service.websocket.messages import Config, InvalidMessage, Speak, SwitchAvatar, read_text
from gateway_service.websocket.outlet import Outlet
from gateway_service.websocket.sound import read_sound
from gateway_service.websocket.voice import Voice
from lipsync_client import (
    AsyncSession,
    AvatarSwitched,
    Frame,
    Interrupted,
    LipsyncError,
    Resumed,
    SegmentEnded,
    SessionEvent,
    Started,
    SwitchFailed,
)
from service_kit.callers.caller import check_avatar
from service_kit.errors import PermissionDenied

# Before the session tells how much sound it takes, the least that every service takes may wait here.
FIRST_BUFFERED_MS = 3000
# Interrupts and switches without an answer; beyond, nothing is read.
MOST_UNANSWERED = 64
# The session ends so much before the gateway cuts it off.
LEAVING_MARGIN_S = 1.0

log = logging.getLogger(__name__)


class Conversation:
    """Holds the state of one socket's session."""

    def __init__(
        self,
        parts: GatewayParts,
        request: web.Request,
        socket: web.WebSocketResponse,
        reader: SocketReader,
        config: Config,
        session: AsyncSession,
        running: RunningSession,
        usage: Usage,
    ) -> None:
        self._parts = parts
        self._reader = reader
        self._config = config
        self._session = session
        self._running = running
        self._usage = usage
        self._outlet = Outlet(request, socket, parts.settings.sockets.reader_timeout_seconds)
        self._inbox = Inbox(self._samples(FIRST_BUFFERED_MS))
        self._voice = Voice(parts.speech, session, self._outlet, config, usage)
        self._closed = False
        self._resumable = bool(config.resume and config.resume.first_frame)
        self._started = asyncio.Event()
        self._idleness = Idleness(parts.clock, parts.settings.sockets.idle_seconds)
        self._unanswered = 0
        self._answered = asyncio.Event()
        self._at_rest = asyncio.Event()
        self._at_rest.set()

    async def run(self) -> Ending:
        """Holds the session to its end, and returns it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for work in (self._read(), self._give(), self._write(), self._leave(), self._rest()):
                    tasks.create_task(work)
        except BaseExceptionGroup as group:
            ending = next((each for each in group.exceptions if isinstance(each, Ending)), None)
            if ending is None:
                raise group.exceptions[0] from None
            self._usage.bytes = self._outlet.bytes
            return ending
        raise AssertionError("one of the tasks ends with an exception")

    # From the browser

    async def _read(self) -> NoReturn:
        while True:
            message = await self._reader.next()
            if message.type is WSMsgType.BINARY:
                self._sound(message.data)
            elif message.type is WSMsgType.TEXT:
                await self._text(message.data)
            else:
                raise client_left(message)
            await self._inbox.room()
            while self._unanswered > MOST_UNANSWERED:
                self._answered.clear()
                await self._answered.wait()

    def _sound(self, data: bytes) -> None:
        if self._closed:
            raise invalid("sound: comes after close")
        try:
            samples = read_sound(data, self._config.audio_encoding)
        except InvalidMessage as error:
            raise invalid(str(error)) from None
        if len(samples):
            self._resumable = False
            self._inbox.add_sound(samples)
        if samples.any():
            self._idleness.used()

    async def _text(self, text: str) -> None:
        try:
            message = read_text(text)
        except InvalidMessage as error:
            raise invalid(str(error)) from None
        self._idleness.used()
        if self._closed:
            raise invalid(f"{message.name}: comes after close")
        if message.config:
            raise invalid("config: may be sent only once, first")
        if message.interrupt:
            self._resumable = False
            await self._interrupt()
        elif message.end_of_segment:
            self._resumable = False
            self._inbox.add(EndOfSegment())
        elif message.close:
            self._closed = True
            self._inbox.add(Close())
        elif message.switch_avatar:
            await self._switch(message.switch_avatar)
        elif message.speak:
            self._speak(message.speak)

    def _speak(self, text: Speak) -> None:
        if text.resumed and not self._resumable:
            raise invalid("speak.resumed: needs `resume` with a first_frame, and comes before anything of a segment")
        self._resumable = False
        # What waits must be small.
        self._inbox.add(self._parts.speech.problem(text.text) or text)

    async def _switch(self, wanted: SwitchAvatar) -> None:
        """Lets the session switch, once all before it is given; refuses an avatar that the caller may not use at once."""
        try:
            check_avatar(wanted.model_id)
        except PermissionDenied as error:
            refused = SwitchFailed(wanted.model_id, error.code, error.message)
            await self._outlet.text(str(session_text(refused, self._running.secret)))
        else:
            self._inbox.add(wanted)

    async def _interrupt(self) -> None:
        dropped = self._inbox.drop_speech()
        await self._voice.stop()
        self._unanswered += 1
        try:
            for item in dropped:  # the browser has counted these segments
                if isinstance(item, SoundPieces):
                    await self._session.push(item.together(), wait=False)
                else:
                    await self._session.end_segment()
            await self._session.interrupt()
        except LipsyncError:  # the task that writes tells why
            await asyncio.Event().wait()

    # To the session

    async def _give(self) -> None:
        try:
            while not isinstance(item := await self._inbox.take(), Close):
                match item:
                    case SoundPieces():
                        self._usage.samples += item.count
                        await self._session.push(item.together())
                    case EndOfSegment():
                        await self._session.end_segment()
                    case SwitchAvatar():
                        self._unanswered += 1
                        await self._session.switch(item.model_id, start_frame=item.start_frame_idx)
                    case Speak():
                        await self._voice.speak(item, after=self._started)
                    case SpeechFailed():
                        await self._voice.refuse(item)
            await self._session.close()
        except LipsyncError:  # the task that writes tells why
            return

    # To the browser

    async def _write(self) -> NoReturn:
        try:
            async for event in self._session:
                if isinstance(event, Frame):
                    await self._frame(event)
                else:
                    await self._event(event)
        except LipsyncError as error:
            raise failed(told_to_caller(error)) from None
        raise Ending(WSCloseCode.OK)

    async def _frame(self, frame: Frame) -> None:
        began_s = self._parts.clock.now()
        if frame.audio_us >= 0:
            self._at_rest.clear()
        if frame.speech:
            self._idleness.used()
        self._running.show(frame)
        if jump := jump_text(frame):
            await self._outlet.text(jump)
        await self._outlet.binary(frame_header(frame), frame.picture if self._config.pictures else b"")
        now_s = self._parts.clock.now()
        self._usage.frame(now_s)
        self._parts.metrics.frame(now_s - began_s, len(frame.picture) if self._config.pictures else 0)

    async def _event(self, event: SessionEvent) -> None:
        match event:
            case Started():
                self._inbox.most_samples = self._samples(event.max_buffered_ms)
                event = replace(event, idle_timeout_ms=self._idleness.limit_ms)
            case SegmentEnded():
                self._at_rest.set()
            case Interrupted():
                self._at_rest.set()
                self._answer()
            case AvatarSwitched() | SwitchFailed():
                self._answer()
            case Resumed():
                self._usage.resumes += 1
                self._parts.metrics.resumes.inc()
        if text := session_text(event, self._running.secret):
            await self._outlet.text(text)
        if isinstance(event, Started):
            self._idleness.used()
            self._started.set()

    def _answer(self) -> None:
        self._unanswered = max(0, self._unanswered - 1)
        self._answered.set()

    # The end

    async def _rest(self) -> None:
        """Waits for a session that runs to be left alone."""
        await self._started.wait()
        if self._idleness.limit_ms:
            await self._idleness.watch()

    async def _leave(self) -> NoReturn:
        server = self._parts.settings.server
        await self._parts.draining.wait()
        ends_in_s = server.drain_seconds + server.grace_seconds
        await self._outlet.text(event_text("going_away", reason="draining", ends_in_ms=round(1000 * ends_in_s)))
        await self._parts.server.ending.wait()
        await self._parts.clock.wait(self._at_rest, max(0.0, server.grace_seconds - LEAVING_MARGIN_S))
        raise Ending(WSCloseCode.GOING_AWAY, "the gateway shuts down: resume elsewhere")

    def _samples(self, milliseconds: int) -> int:
        return milliseconds * self._config.rate // 1000


def internal_error() -> Ending:
    """Ends a session for an error of the gateway's own, which the log has."""
    log.exception("a session ended by an error")
    return failed(LipsyncError(grpc.StatusCode.INTERNAL, "an error of the gateway; its log tells more"))
