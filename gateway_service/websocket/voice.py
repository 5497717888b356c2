"""Speaks a browser's texts: each becomes a segment, and its sound goes to the browser ahead of its frames."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import grpc
import numpy as np

from gateway_service.speaking import Samples, Speaker, SpeechFailed
from gateway_service.usage import Usage
from gateway_service.websocket.events import event_text
from gateway_service.websocket.frames import sound_message
from gateway_service.websocket.messages import Config, Speak
from gateway_service.websocket.outlet import Outlet
from lipsync_client import AsyncSession, PushedSound

_INT16_SCALE = np.float32(1 / 32768)


class Voice:
    """Speaks one text at a time, until it is stopped."""

    def __init__(self, speaker: Speaker, session: AsyncSession, outlet: Outlet, config: Config, usage: Usage) -> None:
        self._speaker = speaker
        self._session = session
        self._outlet = outlet
        self._config = config
        self._usage = usage
        self._speaking: asyncio.Task[None] | None = None

    async def speak(self, text: Speak) -> None:
        """Speaks a text after the sound so far, and returns when the session has taken all of it, or `stop` was called.

        Raises Ending and LipsyncError.
        """
        self._speaking = asyncio.create_task(self._speak(text))
        try:
            await asyncio.wait([self._speaking])
        finally:
            await self.stop()

    async def refuse(self, error: SpeechFailed) -> None:
        """Tells the browser why a text is not spoken. Raises Ending."""
        await self._outlet.text(event_text("speak_failed", code=error.code.name, message=error.message))

    async def stop(self) -> None:
        """Ends the text that is spoken, if there is one. Raises what it has raised."""
        speaking, self._speaking = self._speaking, None
        if speaking is None:
            return
        speaking.cancel()
        await asyncio.wait([speaking])
        if not speaking.cancelled() and (error := speaking.exception()):
            raise error

    async def _speak(self, text: Speak) -> None:
        try:
            if not await self._say(text):
                raise SpeechFailed(grpc.StatusCode.INVALID_ARGUMENT, "the text gives no sound")
        except SpeechFailed as error:
            await self.refuse(error)
        await self._session.end_segment()

    async def _say(self, text: Speak) -> int:
        """Returns the length of the sound, in samples."""
        rate, said = self._config.rate, 0
        sound = self._speaker.speak(text.text, voice=text.voice, words_per_minute=text.words_per_minute, rate=rate)
        async with aclosing(sound):
            async for samples in sound:
                if not said:
                    await self._session.end_segment()
                    segment = self._session.next_segment
                    await self._outlet.text(event_text("speaking", segment=segment, text=text.text))
                piece = sound_message(samples, segment=segment, audio_us=1_000_000 * said // rate, rate=rate)
                await self._outlet.binary(piece)
                await self._session.push(self._pushed(samples))
                said += len(samples)
                self._usage.samples += len(samples)
        return said

    def _pushed(self, samples: Samples) -> PushedSound:
        """Returns the sound in the session's own encoding, of the same values."""
        return samples if self._config.audio_encoding == "PCM_INT16" else samples * _INT16_SCALE
