"""The video service in Pipecat pipelines, against a real lip-sync service."""

from __future__ import annotations

import asyncio
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    MetricsFrame,
    OutputImageRawFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.tests.utils import SleepFrame
from pipecat.utils.errors import ErrorCategory
from pipecat.workers.runner import WorkerRunner

from ..end_to_end.processes import TREE
from .pipecat_bots import MemoryOutput, Played, avatar, pushed, reply, sound_of
from .served import RATE, speech

EXAMPLE = TREE / "lipsync_adapters/pipecat-lipsync/example.py"


async def test_a_picture_precedes_each_40_ms_of_the_voice(server: str) -> None:
    sound = speech(1.23)
    down, up = await pushed(avatar(server), reply(sound, "greeting"))
    spoken = [frame for frame in down if isinstance(frame, TTSAudioRawFrame)]
    assert np.array_equal(sound_of(down), sound)
    assert {frame.context_id for frame in spoken} == {"greeting"}
    assert [frame.num_frames for frame in spoken] == [640] * 30 + [480]
    media = [frame for frame in down if isinstance(frame, TTSAudioRawFrame | OutputImageRawFrame)]
    before = [media[place - 1] for place, frame in enumerate(media) if isinstance(frame, TTSAudioRawFrame)]
    for picture in before:
        assert isinstance(picture, OutputImageRawFrame)
        assert (picture.size, picture.format, picture.sync_with_audio) == ((1280, 720), "RGB", True)
        assert len(picture.image) == 1280 * 720 * 3
    assert isinstance(down[-1], TTSStoppedFrame)
    assert not [frame for frame in up if isinstance(frame, ErrorFrame)]
    measured = [data for frame in down if isinstance(frame, MetricsFrame) for data in frame.data]
    assert [data.model for data in measured if isinstance(data, TTFBMetricsData) and data.value] == ["demo"]


@pytest.mark.parametrize(("rate", "channels"), [(24_000, 1), (48_000, 2), (16_000, 1)])
async def test_a_voice_of_another_rate_keeps_its_length(server: str, rate: int, channels: int) -> None:
    seconds = 0.5
    sound = (np.sin(np.arange(int(rate * seconds)) / rate * 2 * np.pi * 200) * 9000).astype(np.int16)
    down, _ = await pushed(
        avatar(server, "small"),
        reply(np.repeat(sound[:, None], channels, 1), "tone", rate=rate, channels=channels, piece_s=0.033),
        rate=24_000,
    )
    heard = sound_of(down)
    assert {frame.sample_rate for frame in down if isinstance(frame, TTSAudioRawFrame)} == {24_000}
    assert len(heard) == 24_000 * seconds
    expected = np.sin(np.arange(12_000) / 24_000 * 2 * np.pi * 200) * 9000
    assert np.abs(heard - expected)[500:-500].max() < 100


async def test_what_comes_between_the_words_stays_there(server: str) -> None:
    first, second = speech(0.5), speech(0.3)
    started, *pieces, stopped = reply(first, "first")
    frames = [started, *pieces[:2], TextFrame("two"), *pieces[2:], TextFrame("all"), stopped, TextFrame("between")]
    down, _ = await pushed(avatar(server, "small"), [*frames, *reply(second, "second")])
    heard: list[object] = []
    samples = 0
    for frame in down:
        match frame:
            case TTSAudioRawFrame():
                samples += frame.num_frames
            case TextFrame():
                heard.append((frame.text, samples))
            case TTSStartedFrame() | TTSStoppedFrame():
                heard.append((frame.context_id, samples))
    half, end = 8000, 8000 + 4800
    # "two" belongs after 0.2 s, and the frames have 40 ms.
    assert heard == [
        ("first", 0),
        ("two", 3200),
        ("all", half),
        ("first", half),
        ("between", half),
        ("second", half),
        ("second", end),
    ]


async def test_an_output_transport_plays_it(server: str) -> None:
    played = Played()
    sound = speech(1)
    worker = PipelineWorker(
        Pipeline([avatar(server, cushion=0.08), MemoryOutput((1280, 720), played)]),
        params=PipelineParams(audio_out_sample_rate=RATE),
        cancel_on_idle_timeout=False,
    )
    await worker.queue_frames(reply(sound, "greeting"))
    await worker.stop_when_done()
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()
    assert np.array_equal(played.sound[played.sound != 0], sound[sound != 0])
    assert not played.sound[: int(0.08 * RATE)].any()
    assert played.pictures >= 20
    assert {part for part in played.parts if isinstance(part, tuple)} == {(1280, 720)}


async def test_without_a_server_the_voice_goes_on() -> None:
    sound = speech(1)
    down, up = await pushed(avatar("127.0.0.1:1"), [*reply(sound, "first"), *reply(sound, "second")])
    assert np.array_equal(sound_of(down), np.concatenate([sound, sound]))
    assert [frame.context_id for frame in down if isinstance(frame, TTSStoppedFrame)] == ["first", "second"]
    (error,) = [frame for frame in up if isinstance(frame, ErrorFrame)]
    assert error.category is ErrorCategory.CONNECTIVITY


async def test_what_comes_while_the_avatar_is_given_up_keeps_its_place() -> None:
    sound = speech(8)
    frames: list[Frame] = []
    for place in range(0, len(sound), 320):
        frames += [TTSAudioRawFrame(sound[place : place + 320].tobytes(), RATE, 1), TextFrame(str(place)), SleepFrame(0.008)]
    down, _ = await pushed(avatar("127.0.0.1:1"), [*frames, TTSStoppedFrame()])
    samples = 0
    for frame in down:
        if isinstance(frame, TTSAudioRawFrame):
            samples += frame.num_frames
        elif isinstance(frame, TextFrame):
            assert int(frame.text) + 320 == samples
    assert np.array_equal(sound_of(down), sound)


async def test_an_unknown_avatar_is_said_and_the_voice_goes_on(server: str) -> None:
    sound = speech(1)
    service = avatar(server, "nobody")
    down, up = await pushed(service, reply(sound, "first"))
    assert np.array_equal(sound_of(down), sound)
    (error,) = [frame for frame in up if isinstance(frame, ErrorFrame)]
    assert error.category is ErrorCategory.INVALID_REQUEST
    assert "nobody" in error.error
    assert not service.is_usable


async def test_the_example_films_a_bot(server: str, tmp_path: Path) -> None:
    film, voice = tmp_path / "bot.mp4", tmp_path / "speech.wav"
    sound = speech(3.5)
    with wave.open(str(voice), "wb") as recording:
        recording.setparams((1, 2, RATE, 0, "NONE", ""))
        recording.writeframes(sound.tobytes())
    command = [sys.executable, EXAMPLE, "--server", server, "--speech", voice, "--out", film, "--second-avatar", "small"]
    done = await asyncio.create_subprocess_exec(*map(str, command), stderr=asyncio.subprocess.PIPE)
    _, errors = await done.communicate()
    assert done.returncode == 0, errors.decode()
    with av.open(str(film)) as written:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in written.decode(audio=0)])
        seconds = float(written.streams.video[0].duration * written.streams.video[0].time_base)
    # It is said twice to its end.
    assert seconds > 2 * 3.5
    assert np.mean(heard**2) * len(heard) / 24_000 > 0.9 * 2 * np.mean((sound / 32_768) ** 2) * len(sound) / RATE
