"""A video service for Pipecat: the bot's voice goes in, a talking person and the voice that belongs to each picture come out."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import grpc
import numpy as np
from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    HeartbeatFrame,
    InterruptionFrame,
    OutputImageRawFrame,
    ServiceUpdateSettingsFrame,
    SpriteFrame,
    StartFrame,
    StopFrame,
    SystemFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.ai_service import AIService
from pipecat.services.settings import ServiceSettings
from pipecat.utils.errors import ErrorCategory

from lipsync_client import (
    AvatarSwitched,
    GoingAway,
    Resumed,
    SessionEvent,
    SessionOptions,
    Started,
    SwitchFailed,
    TlsOptions,
)
from lipsync_client import Frame as AvatarFrame
from lipsync_client.conversation import Conversation, Server
from lipsync_client.utterances import Samples, Utterances
from pipecat_lipsync.errors import category_of
from pipecat_lipsync.pictures import read_picture
from pipecat_lipsync.replies import Reply
from pipecat_lipsync.sound import SoundReader

SERVER_VARIABLE, KEY_VARIABLE = "LIPSYNC_SERVER", "LIPSYNC_API_KEY"
# Beyond the length of the sound that is to be shown.
_DRAIN_S = 10.0
# These have no place between the words of a reply.
_WITHOUT_ORDER = (SystemFrame, EndFrame, StopFrame, HeartbeatFrame, OutputImageRawFrame, SpriteFrame)


@dataclass
class LipsyncVideoSettings(ServiceSettings):
    """Settings that can be changed while the bot runs: `model`, the avatar's id."""


@dataclass
class LipsyncUpdateSettingsFrame(ServiceUpdateSettingsFrame[LipsyncVideoSettings]):
    """Changes the avatar, also in the middle of a sentence."""


class _Avatar(Enum):
    """State of the avatar, as far as the voice is concerned."""

    OPENING = auto()
    """It may come soon: the voice waits for it."""
    RUNS = auto()
    LOST = auto()
    """The voice goes on without it."""


class LipsyncVideoService(AIService):
    """Shows an avatar that speaks with the bot's voice. Place it between the TTS service and the output transport.

    It takes `TTSAudioRawFrame` and pushes an `OutputImageRawFrame` 25 times a second, also while nobody speaks, each followed by
    the `TTSAudioRawFrame` that belongs to it. The samples are those that came in, in the pipeline's output rate. All other frames
    that come between the words of a reply, as its `TTSStoppedFrame` and its texts, go on when the words before them do.

    An interruption drops what was not shown; the person goes on from the picture that it has reached.

    Without the avatar the bot keeps its voice: when no picture comes for `patience` seconds, or the server refuses, the sound
    that was not shown goes on by itself, once, and so do later replies until the avatar is back. An `ErrorFrame` tells of each
    loss. A connection that breaks is taken up again within that time, with not a frame more or less.

    Event handlers: `on_avatar_started(service, width, height)` once pictures come, `on_avatar_lost(service, reason)`.
    """

    Settings = LipsyncVideoSettings
    _settings: LipsyncVideoSettings

    def __init__(
        self,
        *,
        settings: LipsyncVideoSettings,
        server: str | None = None,
        api_key: str | None = None,
        tls: TlsOptions | None = None,
        options: SessionOptions | None = None,
        session_id: str = "",
        patience: float = 3.0,
        cushion: float = 0.08,
        **kwargs: Any,
    ) -> None:
        """Initialize the service; it opens its session when the pipeline starts.

        Args:
            settings: `model` is the avatar's id.
            server: The compositing service, host:port or a gRPC target; by default the environment's LIPSYNC_SERVER, else
                localhost:50052.
            api_key: Sent with every call; by default the environment's LIPSYNC_API_KEY.
            tls: For a server with TLS.
            options: Of the session, as `idle`, `look_ahead_frames` and `quality`. Its rate is the pipeline's.
            session_id: Finds the session in the server's logs and lists.
            patience: Seconds without a picture after which the voice goes on alone.
            cushion: Seconds of silence before a reply, and after a stall: pictures and sound that come so much too late leave no
                gap in what the transport plays.
            **kwargs: For `AIService`.

        Raises:
            ValueError: For options that set the rate, the output or the pacing, which are not the caller's.
        """
        super().__init__(settings=settings, **kwargs)
        if taken := {"sample_rate", "output", "pacing"} & (options or {}).keys():
            raise ValueError(f"options has {', '.join(sorted(taken))}, which the pipeline decides")
        self._options = options or SessionOptions()
        self._address = server or os.environ.get(SERVER_VARIABLE) or "localhost:50052"
        self._api_key = api_key or os.environ.get(KEY_VARIABLE)
        self._tls = tls
        self._session_id = session_id
        self._patience_s = patience
        self._cushion_s = cushion
        self._plays_until_s = 0.0
        """When the transport has played what it has, on the monotonic clock."""
        self._shown = settings.model
        self._rate = 0
        self._avatar = _Avatar.OPENING
        self._passes_on = False
        """The reply that comes goes on without the avatar."""
        self._interruptions = 0
        self._order = asyncio.Lock()
        """Held while a frame of the bot is placed, and while its voice goes on alone: what comes meanwhile follows it."""
        self._replies: Utterances[Reply] = Utterances()
        self._reader: SoundReader | None = None
        self._drained = asyncio.Event()
        self._conversation: Conversation[Reply] | None = None
        self._task: asyncio.Task[None] | None = None
        self._register_event_handler("on_avatar_started")
        self._register_event_handler("on_avatar_lost")

    def can_generate_metrics(self) -> bool:
        """Tell that there are metrics: the time from a reply's first sound to the picture that shows it."""
        return True

    # Life

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override] # of Pipecat's own
        """Set up the service.

        Args:
            setup: Has the rate of the sound.
        """
        await super().setup(setup)
        self._rate = setup.audio_out_sample_rate

    async def stop(self, frame: EndFrame) -> None:
        """Show what has been said, then end the session.

        Args:
            frame: The end frame.
        """
        await super().stop(frame)
        async with self._order:
            await self._end(None)
        if self._replies:
            self._drained.clear()
            seconds = sum(reply.received - reply.shown for reply in self._replies) / self._rate
            try:
                async with asyncio.timeout(seconds + _DRAIN_S):
                    await self._drained.wait()
            except TimeoutError:
                await self._speak_alone()
        await self._teardown()

    async def cancel(self, frame: CancelFrame) -> None:
        """End the session at once.

        Args:
            frame: The cancel frame.
        """
        await super().cancel(frame)
        await self._teardown()

    async def cleanup(self) -> None:
        """End the session, if it has not ended."""
        await super().cleanup()  # type: ignore[no-untyped-call]
        await self._teardown()

    def _open(self) -> None:
        server = Server(
            address=self._address,
            api_key=self._api_key,
            tls=self._tls,
            session_id=self._session_id,
            options={**self._options, "sample_rate": self._rate},
            patience_s=self._patience_s,
        )
        self._conversation = Conversation(server, self._replies, take=self._take, lose=self._lose)
        self._task = self.create_task(self._conversation.run(lambda: str(self._settings.model)))

    async def _teardown(self) -> None:
        task, self._task = self._task, None
        if task:
            await self.cancel_task(task)
        self._replies.take_all()

    # From the pipeline

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Take the voice, and pass on all else in its turn.

        Args:
            frame: The frame to process.
            direction: The way that it goes.
        """
        await super().process_frame(frame, direction)
        match frame:
            case InterruptionFrame():
                kept = await self._interrupt()
                await self.push_frame(frame, direction)
                for each in kept:
                    await self.push_frame(each)
            case _ if direction is FrameDirection.UPSTREAM:
                await self.push_frame(frame, direction)
            case StartFrame():
                await self.push_frame(frame)
                self._open()
            case LipsyncUpdateSettingsFrame(delta=LipsyncVideoSettings() as delta):
                await self._update_settings(delta)
            case ServiceUpdateSettingsFrame(delta=LipsyncVideoSettings() as delta, service=service) if service is self:
                await self._update_settings(delta)
            case _ if not isinstance(frame, _WITHOUT_ORDER):
                async with self._order:
                    await self._place(frame)
            case _:
                await self.push_frame(frame)

    async def _place(self, frame: Frame) -> None:
        """Takes a frame that has its place between others."""
        match frame:
            case TTSAudioRawFrame():
                await self._hear(frame)
            case TTSStoppedFrame():
                await self._end(frame)
            case _ if last := self._replies.last:
                last.hold(frame)
            case _:
                await self.push_frame(frame)

    async def _hear(self, frame: TTSAudioRawFrame) -> None:
        reply = self._replies.open
        if reply is None:
            if self._passes_on or self._avatar is _Avatar.LOST:
                self._passes_on = True
                await self.push_frame(frame)
                return
            reply = await self._begin(frame)
        assert self._reader
        if len(sound := await self._reader.read(frame)):
            reply.add(sound)
        self._more()

    async def _begin(self, frame: TTSAudioRawFrame) -> Reply:
        if not self._replies:
            await self.start_ttfb_metrics()
        self._reader = SoundReader(self._rate)
        return self._replies.begin(
            Reply(context_id=frame.context_id, destination=frame.transport_destination, interruptible=frame.interruptible)
        )

    async def _end(self, frame: TTSStoppedFrame | None) -> None:
        """Ends the reply that comes; the frame that says so follows its last sound."""
        self._passes_on = False
        reply = self._replies.open
        if reply and self._reader:
            if len(rest := await self._reader.end()):
                reply.add(rest)
            reply.ended = True
        if frame and (last := self._replies.last):
            last.hold(frame)
        elif frame:
            await self.push_frame(frame)
        if reply:
            await self._go_on(reply)
            self._more()

    async def _interrupt(self) -> list[Frame]:
        """Drops what may be interrupted. Returns the frames held with it that must not be lost."""
        self._passes_on = False
        self._plays_until_s = 0.0
        self._interruptions += 1
        dropped = [reply for reply in self._replies if reply.interruptible]
        for reply in dropped:
            self._forget(reply)
        if self._conversation and any(reply.pushed for reply in dropped):
            for reply in self._replies:
                reply.begin_again()
            await self._conversation.interrupt()
            self._more()
        return [frame for reply in dropped for frame in reply.held() if not frame.interruptible]

    def _more(self) -> None:
        if self._conversation:
            self._conversation.more()

    async def _update_settings(self, delta: ServiceSettings) -> dict[str, Any]:
        """Show another avatar. The session goes on; where there is none, another is tried.

        Args:
            delta: `model` is the avatar's id.
        """
        changed = await super()._update_settings(delta)
        if "model" in changed and self._conversation:
            if self._task and self._task.done():
                self._open()
            else:
                await self._conversation.switch(str(self._settings.model))
        return changed

    # From the avatar

    async def _take(self, event: SessionEvent) -> None:
        match event:
            case AvatarFrame():
                await self._show(event)
            case Started():
                logger.info(f"{self}: session {event.session_id}, pictures of {event.width}x{event.height}")
                await self._call_event_handler("on_avatar_started", event.width, event.height)
            case AvatarSwitched():
                self._shown = event.avatar
            case SwitchFailed() if event.code is not grpc.StatusCode.ABORTED:
                self._settings.model = self._shown
                self._sync_model_name_to_metrics()  # type: ignore[no-untyped-call]
                await self.push_error(f"{self._shown} stays: {event.message}", category=ErrorCategory.UNKNOWN)
            case Resumed():
                logger.info(f"{self}: goes on after {event.seconds:.1f} s without a connection ({event.cause})")
            case GoingAway():
                logger.info(f"{self}: the server goes away: {event.reason}")

    async def _show(self, event: AvatarFrame) -> None:
        """Pushes a picture, and its sound if it belongs to a reply that was not interrupted."""
        picture = await read_picture(event.picture)
        self._avatar = _Avatar.RUNS
        reply = None if event.audio is None else self._replies.of_segment(event.segment)
        if reply and self._plays_until_s < time.monotonic() and (samples := int(self._cushion_s * self._rate)):
            await self._say(reply, np.zeros(samples, np.int16))
        await self.push_frame(picture)
        if reply is None or event.audio is None or reply not in self._replies:
            return
        await self._say(reply, event.audio.astype(np.int16, copy=False))
        await self.stop_ttfb_metrics()
        reply.show(len(event.audio))
        await self._go_on(reply)

    async def _say(self, reply: Reply, sound: Samples) -> None:
        frame = TTSAudioRawFrame(sound.tobytes(), self._rate, 1, context_id=reply.context_id)
        frame.transport_destination, frame.interruptible = reply.destination, reply.interruptible
        self._plays_until_s = max(self._plays_until_s, time.monotonic()) + len(sound) / self._rate
        await self.push_frame(frame)

    async def _go_on(self, reply: Reply) -> None:
        """Pushes the frames whose turn has come; a reply that is over is forgotten."""
        for frame in reply.due():
            await self.push_frame(frame)
        if reply.is_over:
            self._forget(reply)

    def _forget(self, reply: Reply) -> None:
        self._replies.forget(reply)
        if not self._replies:
            self._drained.set()

    # Without the avatar

    async def _lose(self, error: Exception) -> bool:
        """Lets the voice go on alone, and says so. Tells if another session is of use."""
        category = category_of(error)
        permanent = category is not None and category.is_permanent
        if self._avatar is not _Avatar.LOST or permanent:
            await self.push_error(f"the avatar is lost, the voice goes on: {error}", exception=error, category=category)
            await self._call_event_handler("on_avatar_lost", str(error))
        self._avatar = _Avatar.LOST
        await self._speak_alone()
        return not permanent

    async def _speak_alone(self) -> None:
        """Pushes all sound that was not shown, with what was held."""
        async with self._order:
            self._passes_on = self._replies.open is not None
            before = self._interruptions
            for reply in self._replies.take_all():
                for part in reply.rest():
                    stays = not (part.interruptible if isinstance(part, Frame) else reply.interruptible)
                    if stays or before == self._interruptions:
                        await (self.push_frame(part) if isinstance(part, Frame) else self._say(reply, part))
        if self._conversation:
            await self._conversation.interrupt()
        self._drained.set()
