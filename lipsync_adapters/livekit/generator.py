"""Generates an avatar's pictures and sound for `AvatarRunner` from what an agent says."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, VideoGenerator

from lipsync_adapters.livekit.pictures import read_picture
from lipsync_adapters.livekit.sound import SoundReader, audio_frame
from lipsync_client import AvatarSwitched, Frame, LipsyncError, Resumed, SessionEvent, Started, SwitchFailed
from lipsync_client.conversation import Conversation, Server, Silent
from lipsync_client.utterances import Samples, Utterance, Utterances

Part: TypeAlias = rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd

# Parts that wait to be sent: a picture and its sound.
_AHEAD = 2
# An idle picture that is later than this is left out: the server's clock may run ahead of LiveKit's.
_LATEST_S = 0.1
# So many at a time.
_MOST_LEFT_OUT = 5
# So much silence precedes an utterance, so that a frame which comes late leaves no gap in it: as much as fits beside a frame. The
# pictures wait for the next one in that time, so each is 20 ms ahead of its sound.
_CUSHION_S = 0.06
# Sound without pictures goes out in pieces of so many seconds.
_PIECE_S = 0.04

log = logging.getLogger(__name__)


class AvatarGenerator(VideoGenerator):
    """An avatar in one room. `open` it before use, and `close` it.

    Without the avatar the agent keeps its voice: the sound that was not shown goes on by itself, once, and so does later speech
    until pictures come again.
    """

    def __init__(self, server: Server, avatar: str, *, rate: int) -> None:
        """`rate`: Hz, of the sound that goes out, as in the options of `server`. Call it on the event loop."""
        self.avatar = avatar
        self._rate = rate
        self._reader = SoundReader(rate)
        self._utterances: Utterances[Utterance[Any]] = Utterances()
        self._conversation = Conversation(server, self._utterances, take=self._take, lose=self._lose)
        self._parts: asyncio.Queue[tuple[int, Part]] = asyncio.Queue(_AHEAD)
        self._generation = 0
        """Grows with each clear: sound of an earlier one is not sent any more."""
        self._alone = False
        """The voice goes on without the avatar."""
        self._order = asyncio.Lock()
        """Held while sound goes out without pictures: what comes meanwhile follows it."""
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[Started] = loop.create_future()
        self._switched: asyncio.Future[None] | None = None
        self._ahead_s: float | None = None
        self._left_out = 0
        self._task: asyncio.Task[None] | None = None
        self._picture: rtc.VideoFrame | None = None
        """The newest one: it is sent when the next one comes."""
        self.lead_in: Callable[[rtc.AudioFrame], Awaitable[None]] | None = None
        """Sends sound that is none of the agent's."""
        self.speaks: Callable[[], None] = lambda: None
        """Hears of each frame of the agent's sound, just before it is sent."""
        self.queued_s: Callable[[], float] = lambda: 0.0
        """Tells how much of the sound that was sent is still to be heard."""

    async def open(self) -> Started:
        """Begins the session. Raises LipsyncError when the server refuses or cannot be reached."""
        self._task = asyncio.create_task(self._conversation.run(lambda: self.avatar))
        return await self._started

    async def close(self) -> None:
        """Ends the session."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def switch(self, avatar: str) -> None:
        """Shows another avatar, also within a sentence; returns once it is there. Raises LipsyncError, and keeps the old one."""
        if self._switched and not self._switched.done():
            self._switched.cancel()
        self._switched = asyncio.get_running_loop().create_future()
        await self._conversation.switch(avatar)
        await self._switched

    # From the agent

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Takes what the agent says next, or the end of an utterance."""
        if isinstance(frame, rtc.AudioFrame):
            await self._hear(self._reader.read(frame))
            return
        await self._hear(self._reader.end())
        self._reader = SoundReader(self._rate)
        utterance = self._utterances.open
        if utterance:
            utterance.ended = True
            await self._go_on(utterance)
            self._conversation.more()
        elif self._alone:
            async with self._order:
                await self._put(AudioSegmentEnd())

    async def clear_buffer(self) -> None:
        """Drops what was not heard."""
        self._generation += 1
        self._reader = SoundReader(self._rate)
        if self._utterances.take_all():
            await self._conversation.interrupt()

    async def _hear(self, sound: Samples) -> None:
        if not len(sound):
            return
        generation, utterance = self._generation, self._utterances.open
        if utterance is None and self._alone:
            async with self._order:
                await self._say(sound, generation)
            return
        (utterance or self._utterances.begin(Utterance())).add(sound)
        self._conversation.more()

    # From the avatar

    async def _take(self, event: SessionEvent) -> None:
        match event:
            case Frame():
                await self._show(event)
            case Started() if not self._started.done():
                self._started.set_result(event)
            case Resumed():
                self._ahead_s = None
                log.info("goes on after %.1f s without a connection: %s", event.seconds, event.cause)
            case AvatarSwitched():
                self.avatar = event.avatar
                self._answer_switch(None)
            case SwitchFailed():
                self._answer_switch(LipsyncError(event.code, event.message, from_server=True))

    async def _show(self, frame: Frame) -> None:
        """Puts a picture, and its sound if nobody cleared it."""
        self._alone = False
        if frame.audio is None and self._is_late(frame):
            return
        before, self._picture = self._picture, await asyncio.to_thread(read_picture, frame.picture)
        utterance = None if frame.audio is None else self._utterances.of_segment(frame.segment)
        await self._put(before or self._picture)
        if utterance and frame.audio is not None and utterance in self._utterances:
            utterance.show(len(frame.audio))
            await self._put(audio_frame(frame.audio.astype(np.int16, copy=False), self._rate))
            await self._go_on(utterance)

    def _is_late(self, frame: Frame) -> bool:
        """Tells if a frame comes later than others did, seen from the clock of its session."""
        ahead_s = frame.pts_us / 1e6 - time.monotonic()
        self._ahead_s = ahead_s if self._ahead_s is None else max(ahead_s, self._ahead_s)
        if self._ahead_s - ahead_s <= _LATEST_S:
            self._left_out = 0
        elif self._left_out == _MOST_LEFT_OUT:  # the session's clock was moved
            self._left_out, self._ahead_s = 0, ahead_s
        else:
            self._left_out += 1
        return self._left_out > 0

    async def _go_on(self, utterance: Utterance[Any]) -> None:
        """Says so when an utterance is over."""
        if utterance.is_over and utterance in self._utterances:
            self._utterances.forget(utterance)
            await self._put(AudioSegmentEnd())

    def _answer_switch(self, error: LipsyncError | None) -> None:
        switched, self._switched = self._switched, None
        if switched and not switched.done():
            switched.set_exception(error) if error else switched.set_result(None)

    # Without the avatar

    async def _lose(self, error: Exception) -> bool:
        """Lets the voice go on alone. Tells if another session is of use: not before the first has begun."""
        if not self._started.done():
            if isinstance(error, Silent):  # it loads
                return True
            self._started.set_exception(error)
            return False
        if not self._alone:
            log.warning("the avatar is lost, the voice goes on: %s", error)
        self._alone = True
        self._answer_switch(error if isinstance(error, LipsyncError) else None)
        generation = self._generation
        async with self._order:
            lost = self._utterances.take_all()
            await self._conversation.interrupt()
            for utterance in lost:
                for sound in utterance.rest():
                    await self._say(sound, generation)
                if utterance.ended and generation == self._generation:
                    await self._put(AudioSegmentEnd())
        return True

    async def _say(self, sound: Samples, generation: int) -> None:
        """Puts sound by itself, until it is cleared."""
        size = int(_PIECE_S * self._rate)
        for first in range(0, len(sound), size):
            if generation == self._generation:
                await self._put(audio_frame(sound[first : first + size], self._rate))

    # To the runner

    async def _put(self, part: Part) -> None:
        """Waits until the runner has taken what is before."""
        await self._parts.put((self._generation, part))

    async def __aiter__(self) -> AsyncIterator[Part]:
        """Yields pictures and sound as they are to be sent, and an end once the sound before it was heard."""
        loop = asyncio.get_running_loop()
        ends_s: float | None = None
        ending = 0
        while True:
            part: Part | None = None
            with suppress(TimeoutError):
                async with asyncio.timeout_at(ends_s):
                    generation, part = await self._parts.get()
            if ends_s is not None and not isinstance(part, rtc.VideoFrame):
                await asyncio.sleep(ends_s - loop.time())
                if ending == self._generation:
                    yield AudioSegmentEnd()
                ends_s = None
            if part is None or (generation != self._generation and not isinstance(part, rtc.VideoFrame)):
                continue
            if isinstance(part, AudioSegmentEnd):
                ends_s, ending = loop.time() + self.queued_s(), generation
                continue
            if isinstance(part, rtc.AudioFrame):
                if self.lead_in and not self.queued_s():
                    await self.lead_in(audio_frame(np.zeros(int(_CUSHION_S * self._rate), np.int16), self._rate))
                self.speaks()
            yield part
