"""A video service for Pipecat: the bot's voice goes in, a talking person and the voice that belongs to each picture come out."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

import grpc
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
from pipecat_lipsync.errors import category_of
from pipecat_lipsync.pictures import read_picture
from pipecat_lipsync.voice import Voice

SERVER_VARIABLE, KEY_VARIABLE = "LIPSYNC_SERVER", "LIPSYNC_API_KEY"
# These have no place between the words of a reply.
_WITHOUT_ORDER = (SystemFrame, EndFrame, StopFrame, HeartbeatFrame, OutputImageRawFrame, SpriteFrame)


@dataclass
class LipsyncVideoSettings(ServiceSettings):
    """Settings that can be changed while the bot runs: `model`, the avatar's id."""


@dataclass
class LipsyncUpdateSettingsFrame(ServiceUpdateSettingsFrame[LipsyncVideoSettings]):
    """Changes the avatar, also in the middle of a sentence."""


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
        self._voice = Voice(self.push_frame, self.start_ttfb_metrics, cushion_s=cushion)
        self._shown = settings.model
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
        self._voice.rate = setup.audio_out_sample_rate

    async def stop(self, frame: EndFrame) -> None:
        """Show what has been said, then end the session.

        Args:
            frame: The end frame.
        """
        await super().stop(frame)
        await self._voice.finish()
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
            options={**self._options, "sample_rate": self._voice.rate},
            patience_s=self._patience_s,
        )
        conversation = Conversation(server, self._voice.replies, take=self._take, lose=self._lose)
        self._voice.conversation = conversation
        self._task = self.create_task(conversation.run(lambda: str(self._settings.model)))

    async def _teardown(self) -> None:
        task, self._task = self._task, None
        if task:
            await self.cancel_task(task)
        self._voice.replies.take_all()

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
                kept = await self._voice.interrupt()
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
                await self._voice.place(frame)
            case _:
                await self.push_frame(frame)

    async def _update_settings(self, delta: ServiceSettings) -> dict[str, Any]:
        """Show another avatar. The session goes on; where there is none, another is tried.

        Args:
            delta: `model` is the avatar's id.
        """
        changed = await super()._update_settings(delta)
        if "model" in changed and self._voice.conversation:
            if self._task and self._task.done():
                self._open()
            else:
                await self._voice.conversation.switch(str(self._settings.model))
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
        picture = await read_picture(event.picture)
        self._voice.is_alone = False
        if await self._voice.show(event, picture):
            await self.stop_ttfb_metrics()

    # Without the avatar

    async def _lose(self, error: Exception) -> bool:
        """Lets the voice go on alone, and says so. Tells if another session is of use."""
        category = category_of(error)
        permanent = category is not None and category.is_permanent
        if not self._voice.is_alone or permanent:
            await self.push_error(f"the avatar is lost, the voice goes on: {error}", exception=error, category=category)
            await self._call_event_handler("on_avatar_lost", str(error))
        self._voice.is_alone = True
        await self._voice.speak_alone()
        return not permanent
