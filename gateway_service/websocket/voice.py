"""Speaks a browser's texts: each becomes a segment, and its sound goes to the browser ahead of its frames."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

import grpc
import numpy as np

from gateway_service.speaking import Samples, Speaker, SpeechFailed
from gateway_service.usage import Usage
from gateway_service.websocket.events import event_text
from gateway_service.websocket.frames import sound_header
from gateway_service.websocket.messages import Config, Speak
from gateway_service.websocket.outlet import Outlet
from lipsync_client import AsyncSession, LipsyncError, PushedSound
from lipsync_client.cutting import sample_of_frame

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
        self._segment: int | None = None
        """The segment of the text that is spoken, once it has begun."""

    async def speak(self, text: Speak, *, after: asyncio.Event) -> None:
        """Speaks a text after the sound so far, and not before the event.

        Returns when the session has taken all of it, or `stop` was called. Raises Ending and LipsyncError.
        """
        self._speaking = asyncio.create_task(self._speak(text, after))
        try:
            await asyncio.wait([self._speaking])
        finally:
            await self.stop()

    async def refuse(self, error: SpeechFailed) -> None:
        """Tells the browser why a text is not spoken. Raises Ending."""
        begun = {} if self._segment is None else {"segment": self._segment}
        await self._outlet.text(event_text("speak_failed", code=error.code.name, message=error.message, **begun))

    async def stop(self) -> None:
        """Ends the text that is spoken, if there is one. Raises what it has raised."""
        speaking, self._speaking = self._speaking, None
        if speaking is None:
            return
        speaking.cancel()
        await asyncio.wait([speaking])
        if not speaking.cancelled() and (error := speaking.exception()):
            raise error

    async def _speak(self, text: Speak, after: asyncio.Event) -> None:
        try:
            await after.wait()
            await self._say_all(text)
            await self._session.end_segment()
        except asyncio.CancelledError:
            if self._segment is not None:
                await self._count()
            raise
        finally:
            self._segment = None

    async def _count(self) -> None:
        """Lets the session count the segment that the browser was told of: there may be no sound of it yet."""
        with suppress(LipsyncError):  # it has ended
            await self._session.push(self._pushed(np.zeros(1, np.int16)), wait=False)
            await self._session.end_segment()

    async def _say_all(self, text: Speak) -> None:
        try:
            await self._say(text)
            if self._segment is None:
                await self._give_up(text)
        except SpeechFailed as error:
            await self.refuse(error)

    async def _give_up(self, text: Speak) -> None:
        """Ends the segment of a text that gives no sound. Raises SpeechFailed."""
        if text.resumed:  # it was spoken by another program, or with another voice
            await self._session.interrupt()
            raise SpeechFailed(grpc.StatusCode.INVALID_ARGUMENT, "the text is shorter than what was shown of it")
        raise SpeechFailed(grpc.StatusCode.INVALID_ARGUMENT, "the text gives no sound")

    async def _say(self, text: Speak) -> None:
        """Says a text, or the rest of a resumed one. Raises SpeechFailed."""
        rate, place = self._config.rate, 0
        first = self._first_sample(text)
        sound = self._speaker.speak(text.text, voice=text.voice, words_per_minute=text.words_per_minute, rate=rate)
        async with aclosing(sound):
            async for spoken in sound:
                samples = spoken[max(0, first - place) :]
                place += len(spoken)
                if not len(samples):
                    continue
                if self._segment is None:
                    await self._begin(text)
                    assert self._segment is not None
                audio_us = 1_000_000 * (place - len(samples)) // rate
                header = sound_header(len(samples), segment=self._segment, audio_us=audio_us, rate=rate)
                await self._outlet.binary(header, samples.astype("<i2", copy=False).tobytes())
                await self._session.push(self._pushed(samples))
                self._usage.samples += len(samples)

    def _first_sample(self, text: Speak) -> int:
        """Returns the sample from which on the session wants the text."""
        resume = self._config.resume
        return sample_of_frame(resume.audio_start_frame, self._config.rate) if text.resumed and resume else 0

    async def _begin(self, text: Speak) -> None:
        """Tells the browser the segment that the text is."""
        if not text.resumed:
            await self._session.end_segment()
        self._segment = self._session.next_segment
        await self._outlet.text(event_text("speaking", segment=self._segment, text=text.text))

    def _pushed(self, samples: Samples) -> PushedSound:
        """Returns the sound in the session's own encoding, of the same values."""
        return samples if self._config.audio_encoding == "PCM_INT16" else samples * _INT16_SCALE
