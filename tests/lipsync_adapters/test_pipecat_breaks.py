"""Breaks in a reply: interruptions, another avatar, a service that dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    TextFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.utils.errors import ErrorCategory
from pipecat.workers.runner import WorkerRunner

from lipsync_client import Client
from pipecat_lipsync import LipsyncUpdateSettingsFrame, LipsyncVideoService

from ..end_to_end.processes import running, running_all, until
from .pipecat_bots import avatar, reply, sound_of
from .served import RATE, speech

WAIT_S = 60


def sessions(server: str) -> list[str]:
    """The ids of the sessions that a service has."""
    with Client(server) as client:
        return [session.id for session in client.list_sessions()]


class Heard(FrameProcessor):
    """The end of a pipeline: keeps its frames, and lets a test wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self._came = asyncio.Condition()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        async with self._came:
            self.frames.append(frame)
            self._came.notify_all()
        await self.push_frame(frame, direction)

    async def until(self, true: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT_S), self._came:
            await self._came.wait_for(true)

    def kind(self, kind: type[Frame]) -> list[Frame]:
        return [frame for frame in self.frames if isinstance(frame, kind)]

    @property
    def sound(self) -> np.ndarray:
        return sound_of(self.frames)


class Bot:
    """A pipeline of the video service and its listener, as a context."""

    def __init__(self, service: LipsyncVideoService) -> None:
        self.heard, self.errors = Heard(), []
        self.service = service
        self._worker = PipelineWorker(
            Pipeline([service, self.heard]),
            params=PipelineParams(audio_out_sample_rate=RATE),
            cancel_on_idle_timeout=False,
        )
        self._worker.add_event_handler("on_pipeline_error", self._on_error)

    async def _on_error(self, _: object, frame: ErrorFrame) -> None:
        self.errors.append(frame)

    async def __aenter__(self) -> Bot:
        runner = WorkerRunner()
        await runner.add_workers(self._worker)
        self._running = asyncio.create_task(runner.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._worker.cancel()
        await self._running

    async def say(self, *frames: Frame) -> None:
        await self._worker.queue_frames(list(frames))

    async def until_pictures(self, count: int) -> None:
        await self.heard.until(lambda: len(self.heard.kind(OutputImageRawFrame)) >= count)

    async def until_sound(self, seconds: float) -> None:
        await self.heard.until(lambda: len(self.heard.sound) >= seconds * RATE)

    async def until_stopped(self, count: int) -> None:
        await self.heard.until(lambda: len(self.heard.kind(TTSStoppedFrame)) >= count)


async def test_an_interruption_ends_the_reply_at_once(server: str) -> None:
    sound, after = speech(4), speech(0.5)[::-1]
    async with Bot(avatar(server)) as bot:
        await bot.say(*reply(sound, "long")[:-1], TextFrame("never said"))
        await bot.until_sound(0.4)
        await bot.say(InterruptionFrame())
        await bot.heard.until(lambda: bot.heard.kind(InterruptionFrame))
        until = len(bot.heard.sound)
        await bot.say(*reply(after, "next"))
        await bot.until_stopped(1)
        place = bot.heard.frames.index(bot.heard.kind(InterruptionFrame)[0])
        assert until < len(sound)
        assert np.array_equal(sound_of(bot.heard.frames[:place]), sound[: len(sound_of(bot.heard.frames[:place]))])
        assert np.array_equal(sound_of(bot.heard.frames[place:]), after)
        assert [frame.context_id for frame in bot.heard.kind(TTSStoppedFrame)] == ["next"]
        assert not bot.heard.kind(TextFrame)
    assert not bot.errors


async def test_what_must_not_be_interrupted_is_said_to_its_end(server: str) -> None:
    first, notice = speech(3), speech(1)[::-1]
    frames = reply(notice, "notice")
    for frame in frames:
        frame.interruptible = False
    async with Bot(avatar(server)) as bot:
        await bot.say(*reply(first, "first"), *frames)
        await bot.until_sound(0.3)
        await bot.say(InterruptionFrame())
        await bot.until_stopped(1)
        place = bot.heard.frames.index(bot.heard.kind(InterruptionFrame)[0])
        assert np.array_equal(sound_of(bot.heard.frames[place:]), notice)
        assert [frame.context_id for frame in bot.heard.kind(TTSStoppedFrame)] == ["notice"]


async def test_the_avatar_changes_within_a_sentence(server: str) -> None:
    sound = speech(3)
    async with Bot(avatar(server)) as bot:
        await bot.say(*reply(sound, "long"))
        await bot.until_sound(0.2)
        await bot.say(LipsyncUpdateSettingsFrame(delta=LipsyncVideoService.Settings(model="small")))
        await bot.until_stopped(1)
        assert np.array_equal(bot.heard.sound, sound)
        sizes = [frame.size for frame in bot.heard.kind(OutputImageRawFrame)]
        assert sizes[0] == (1280, 720) != sizes[-1]
        assert bot.service.settings.model == "small"
    assert not bot.errors


async def test_an_avatar_that_is_not_there_leaves_the_one_that_is(server: str) -> None:
    sound = speech(1)
    async with Bot(avatar(server, "small")) as bot:
        await bot.until_pictures(1)
        await bot.say(LipsyncUpdateSettingsFrame(delta=LipsyncVideoService.Settings(model="nobody")), *reply(sound, "said"))
        await bot.until_stopped(1)
        assert np.array_equal(bot.heard.sound, sound)
        assert len({frame.size for frame in bot.heard.kind(OutputImageRawFrame)}) == 1
        assert bot.service.settings.model == "small"
    (error,) = bot.errors
    assert "nobody" in error.error


async def test_a_cancelled_bot_leaves_no_session(server: str) -> None:
    async with Bot(avatar(server, "small", session_id="cancelled")) as bot:
        await bot.say(*reply(speech(3), "long"))
        await bot.until_sound(0.2)
        assert "cancelled" in await asyncio.to_thread(sessions, server)
    await asyncio.to_thread(until, lambda: "cancelled" not in sessions(server))


async def test_a_service_that_dies_in_mid_sentence_costs_no_word(place: tuple[str, str], tmp_path: Path) -> None:
    sound = speech(4)
    with running_all(*place, log=tmp_path / "first") as (compositing, *_):
        async with Bot(avatar(compositing.address, "small", patience=30)) as bot:
            await bot.say(*reply(sound, "long"))
            await bot.until_sound(0.5)
            compositing.signal(signal.SIGKILL)
            await asyncio.to_thread(compositing.process.wait)
            with running_all(*place, log=tmp_path / "second"):
                await bot.until_stopped(1)
                assert np.array_equal(bot.heard.sound, sound)
                pictures = bot.heard.kind(OutputImageRawFrame)
                assert len(pictures) >= 100
        assert not bot.errors


async def test_a_service_that_stays_dead_leaves_the_voice(place: tuple[str, str], tmp_path: Path) -> None:
    sound, later, back = speech(4), speech(1)[::-1], speech(1)
    with running_all(*place, log=tmp_path / "first") as (compositing, *_):
        async with Bot(avatar(compositing.address, "small", patience=1)) as bot:
            await bot.say(*reply(sound, "long")[:-1])
            await bot.until_sound(0.5)
            compositing.signal(signal.SIGKILL)
            await bot.until_sound(4)
            await bot.say(TTSStoppedFrame(context_id="long"), *reply(later, "later"))
            await bot.until_stopped(2)
            assert np.array_equal(bot.heard.sound, np.concatenate([sound, later]))
            await asyncio.to_thread(compositing.process.wait)
            with running_all(*place, log=tmp_path / "second"):
                before = len(bot.heard.kind(OutputImageRawFrame))
                await bot.until_pictures(before + 5)
                await bot.say(*reply(back, "back"))
                await bot.until_stopped(3)
                assert np.array_equal(bot.heard.sound, np.concatenate([sound, later, back]))
                assert len(bot.heard.kind(OutputImageRawFrame)) >= before + 30
        assert len(bot.errors) == 1


async def test_networks_that_hang_leave_the_voice(models_root: Path, tmp_path: Path) -> None:
    """The person is seen, but no mouth is made any more."""
    sound, back = speech(4), speech(1)
    models = f"models_root={models_root}"
    with (
        running("inference", models, log=tmp_path / "inference") as inference,
        running("compositing", models, f"inference_server.url={inference.address}", log=tmp_path / "compositing") as compositing,
    ):
        async with Bot(avatar(compositing.address, "small", patience=1)) as bot:
            await bot.say(*reply(sound, "long"))
            await bot.until_sound(0.5)
            inference.signal(signal.SIGSTOP)
            await bot.until_stopped(1)
            assert np.array_equal(bot.heard.sound, sound)
            inference.signal(signal.SIGCONT)
            before = len(bot.heard.kind(OutputImageRawFrame))
            await bot.until_pictures(before + 5)
            await bot.say(*reply(back, "back"))
            await bot.until_stopped(2)
            assert np.array_equal(bot.heard.sound, np.concatenate([sound, back]))
        assert bot.errors[0].category is ErrorCategory.CONNECTIVITY


async def test_options_that_no_session_has_are_said_once() -> None:
    sound = speech(0.5)
    async with Bot(avatar("127.0.0.1:1", options={"idle": "never"})) as bot:  # type: ignore[typeddict-item]
        await bot.say(*reply(sound, "said"))
        await bot.until_stopped(1)
        assert np.array_equal(bot.heard.sound, sound)
    assert [error.category for error in bot.errors] == [ErrorCategory.INVALID_REQUEST]
