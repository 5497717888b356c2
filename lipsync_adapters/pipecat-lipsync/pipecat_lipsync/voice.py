"""The voice of a bot: replies that wait to be shown, and all that has its place between their words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np
from pipecat.frames.frames import Frame, TTSAudioRawFrame, TTSStoppedFrame

from lipsync_client import Frame as AvatarFrame
from lipsync_client.conversation import Conversation
from lipsync_client.utterances import Samples, Utterances
from pipecat_lipsync.replies import Reply
from pipecat_lipsync.sound import SoundReader

# Beyond the length of the sound that is to be shown.
_DRAIN_S = 10.0


class Voice:
    """Replies in their order, from the bot to the transport, with the avatar or without it."""

    def __init__(
        self, push: Callable[[Frame], Awaitable[None]], begins: Callable[[], Awaitable[None]], *, cushion_s: float
    ) -> None:
        """`push` takes frames for the transport; `begins` hears of the first sound of a reply before which none waits.
        `cushion_s`: seconds of silence before a reply, and after a stall."""
        self._push = push
        self._begins = begins
        self._cushion_s = cushion_s
        self.rate = 0
        """Hz, of the sound that goes out."""
        self.is_alone = False
        """Replies go on without the avatar from their first sound on."""
        self.conversation: Conversation[Reply] | None = None
        """The session that shows `replies`."""
        self.replies: Utterances[Reply] = Utterances()
        """Those that were not shown to their end."""
        self._plays_until_s = 0.0
        """When the transport has played what it has, on the monotonic clock."""
        self._passes_on = False
        """The reply that comes goes on without the avatar."""
        self._interruptions = 0
        self._order = asyncio.Lock()
        """Held while a frame of the bot is placed, and while its voice goes on alone: what comes meanwhile follows it."""
        self._reader: SoundReader | None = None
        self._drained = asyncio.Event()

    # From the bot

    async def place(self, frame: Frame) -> None:
        """Takes a frame that has its place between others."""
        async with self._order:
            match frame:
                case TTSAudioRawFrame():
                    await self._hear(frame)
                case TTSStoppedFrame():
                    await self._end(frame)
                case _ if last := self.replies.last:
                    last.hold(frame)
                case _:
                    await self._push(frame)

    async def finish(self) -> None:
        """Ends the reply that comes, and waits until all was said."""
        async with self._order:
            await self._end(None)
        if self.replies:
            self._drained.clear()
            seconds = sum(reply.received - reply.shown for reply in self.replies) / self.rate
            try:
                async with asyncio.timeout(seconds + _DRAIN_S):
                    await self._drained.wait()
            except TimeoutError:
                await self.speak_alone()

    async def interrupt(self) -> list[Frame]:
        """Drops what may be interrupted. Returns the frames held with it that must not be lost."""
        self._passes_on = False
        self._plays_until_s = 0.0
        self._interruptions += 1
        dropped = [reply for reply in self.replies if reply.interruptible]
        for reply in dropped:
            self._forget(reply)
        if self.conversation and any(reply.pushed for reply in dropped):
            for reply in self.replies:
                reply.begin_again()
            await self.conversation.interrupt()
            self._more()
        return [frame for reply in dropped for frame in reply.held() if not frame.interruptible]

    async def _hear(self, frame: TTSAudioRawFrame) -> None:
        reply = self.replies.open
        if reply is None:
            if self._passes_on or self.is_alone:
                self._passes_on = True
                await self._push(frame)
                return
            reply = await self._begin(frame)
        assert self._reader
        if len(sound := await self._reader.read(frame)):
            reply.add(sound)
        self._more()

    async def _begin(self, frame: TTSAudioRawFrame) -> Reply:
        if not self.replies:
            await self._begins()
        self._reader = SoundReader(self.rate)
        return self.replies.begin(
            Reply(context_id=frame.context_id, destination=frame.transport_destination, interruptible=frame.interruptible)
        )

    async def _end(self, frame: TTSStoppedFrame | None) -> None:
        """Ends the reply that comes; the frame that says so follows its last sound."""
        self._passes_on = False
        reply = self.replies.open
        if reply and self._reader:
            if len(rest := await self._reader.end()):
                reply.add(rest)
            reply.ended = True
        if frame and (last := self.replies.last):
            last.hold(frame)
        elif frame:
            await self._push(frame)
        if reply:
            await self._go_on(reply)
            self._more()

    def _more(self) -> None:
        if self.conversation:
            self.conversation.more()

    # To the transport

    async def show(self, event: AvatarFrame, picture: Frame) -> bool:
        """Pushes a picture, and its sound if it belongs to a reply that was not interrupted. Tells if it did."""
        reply = None if event.audio is None else self.replies.of_segment(event.segment)
        if reply and self._plays_until_s < time.monotonic() and (samples := int(self._cushion_s * self.rate)):
            await self._say(reply, np.zeros(samples, np.int16))
        await self._push(picture)
        if reply is None or event.audio is None or reply not in self.replies:
            return False
        await self._say(reply, event.audio.astype(np.int16, copy=False))
        reply.show(len(event.audio))
        await self._go_on(reply)
        return True

    async def speak_alone(self) -> None:
        """Pushes all sound that was not shown, with what was held."""
        async with self._order:
            self._passes_on = self.replies.open is not None
            before = self._interruptions
            for reply in self.replies.take_all():
                for part in reply.rest():
                    stays = not (part.interruptible if isinstance(part, Frame) else reply.interruptible)
                    if stays or before == self._interruptions:
                        await (self._push(part) if isinstance(part, Frame) else self._say(reply, part))
        if self.conversation:
            await self.conversation.interrupt()
        self._drained.set()

    async def _say(self, reply: Reply, sound: Samples) -> None:
        frame = TTSAudioRawFrame(sound.tobytes(), self.rate, 1, context_id=reply.context_id)
        frame.transport_destination, frame.interruptible = reply.destination, reply.interruptible
        self._plays_until_s = max(self._plays_until_s, time.monotonic()) + len(sound) / self.rate
        await self._push(frame)

    async def _go_on(self, reply: Reply) -> None:
        """Pushes the frames whose turn has come; a reply that is over is forgotten."""
        for frame in reply.due():
            await self._push(frame)
        if reply.is_over:
            self._forget(reply)

    def _forget(self, reply: Reply) -> None:
        self.replies.forget(reply)
        if not self.replies:
            self._drained.set()
