"""Sessions with H.264, decoded by FFmpeg's own decoder: the pictures are those of raw output, and can be joined at key frames."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from avatar_kit.avatar import Avatar
from lipsync_cli.main import app
from lipsync_client import (
    AsyncClient,
    AsyncSession,
    AvatarSwitched,
    Frame,
    Interrupted,
    Resumed,
    Session,
    SessionEvent,
    Started,
)
from shared_proto import compositing_pb2 as pb
from shared_proto.compositing_pb2_grpc import CompositingServiceStub

from .conftest import Duo
from .cutting_proxy import CuttingProxy
from .processes import running, until
from .talking import Talk, config
from .test_client_sessions import talked

Picture = np.ndarray


def decoded(frames: Iterable[Frame]) -> list[Picture]:
    """Decodes the access units without threads: BGR by the colours that the stream itself names."""
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    pictures = []
    for frame in frames:
        pictures += decoder.decode(av.Packet(frame.picture))
    pictures += decoder.decode(None)
    assert all((picture.color_range, picture.colorspace) == (2, 6) for picture in pictures), "full range, BT.601"
    return [picture.to_ndarray(format="bgr24") for picture in pictures]


def events_of(target: str, sound: np.ndarray, avatar: str, **options: Any) -> list[SessionEvent]:
    """A session that says a sound, as fast as its frames are made."""

    def speak(session: Session) -> None:
        session.push(sound)

    return talked(target, speak, avatar=avatar, pacing="fast", **options)


def spoken(duo: Duo, sound: np.ndarray, avatar: str, **options: Any) -> list[Frame]:
    return [event for event in events_of(duo.compositing.address, sound, avatar, **options) if isinstance(event, Frame)]


def psnr(one: Picture, other: Picture) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.fixture(scope="module")
def raw(duo: Duo, demo: Avatar, speech: np.ndarray) -> list[Picture]:
    frames = spoken(duo, speech[:48_000], "demo", output="raw")
    return [np.frombuffer(frame.picture, np.uint8).reshape(demo.height, demo.width, 3) for frame in frames]


@pytest.mark.parametrize(("quality", "least", "least_mouth"), [(None, 39, 35), ("low", 37, 33), ("high", 41, 37)])
def test_the_pictures_are_those_of_raw_output(
    duo: Duo, demo: Avatar, speech: np.ndarray, raw: list[Picture], quality: Any, least: float, least_mouth: float
) -> None:
    frames = spoken(duo, speech[:48_000], "demo", output="h264", quality=quality)
    pictures = decoded(frames)
    assert len(frames) == len(pictures) == len(raw) == 75
    assert [frame.number for frame in frames if frame.key_frame] == [0]
    for frame, picture, true in zip(frames, pictures, raw, strict=True):
        assert psnr(picture, true) > least
        assert np.abs((picture.astype(int) - true).mean((0, 1))).max() < 1, "a shift of a colour"
        rect = demo.rects[frame.index]
        mouth = slice(rect.y1, rect.y2), slice(rect.x1, rect.x2)
        assert psnr(picture[mouth], true[mouth]) > least_mouth


async def seen(session: AsyncSession, events: list[SessionEvent], one: Callable[[SessionEvent], bool], count: int = 1) -> None:
    """Takes events until so many of one kind have come."""
    while count:
        events.append(await anext(session))
        count -= one(events[-1])


async def next_frames(session: AsyncSession, count: int) -> list[Frame]:
    events: list[SessionEvent] = []
    await seen(session, events, lambda event: isinstance(event, Frame), count)
    return [event for event in events if isinstance(event, Frame)]


async def test_a_key_frame_comes_when_it_is_asked_for(duo: Duo, demo: Avatar) -> None:
    async with AsyncClient(duo.compositing.address) as client, client.session("demo", output="h264") as session:
        assert isinstance(started := await anext(session), Started)
        assert started.output == "h264"
        frames = await next_frames(session, 10)
        assert [frame.number for frame in frames if frame.key_frame] == [0]
        await session.request_key_frame()
        while not frames[-1].key_frame:
            frames += await next_frames(session, 1)
            assert len(frames) < 100, "it did not come"
        frames += await next_frames(session, 5)
        joined = [number for number, frame in enumerate(frames) if frame.key_frame]
        assert len(joined) == 2
        for one, other in zip(decoded(frames[joined[1] :]), decoded(frames)[joined[1] :], strict=True):
            assert np.array_equal(one, other)


async def test_another_avatar_begins_a_stream_of_its_size(duo: Duo, demo: Avatar) -> None:
    async with AsyncClient(duo.compositing.address) as client, client.session("demo", output="h264") as session:
        frames = await next_frames(session, 3)
        await session.switch("small")
        switched = None
        while switched is None:
            event = await anext(session)
            if isinstance(event, Frame):
                frames.append(event)
            elif isinstance(event, AvatarSwitched):
                switched = event
        frames += await next_frames(session, 5)
        assert [frame.number for frame in frames if frame.key_frame] == [0, switched.number]
        sizes = [picture.shape[:2] for picture in decoded(frames)]
        assert sizes == [(720, 1280)] * switched.number + [(switched.height, switched.width)] * 5


def test_batches_have_no_h264(duo: Duo) -> None:
    request = pb.CompositeBatchRequest(model_id="small", idle=True, batch_size=1, output_format=pb.FORMAT_H264)
    with pytest.raises(grpc.RpcError) as caught:
        duo.pictures.InferBatchComposite(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "sessions alone" in caught.value.details()


@pytest.mark.parametrize("cuts", [[90_000], [40_000, 5_000, 60_000]])
def test_a_stream_that_breaks_goes_on_with_a_key_frame(
    duo: Duo, demo: Avatar, speech: np.ndarray, raw: list[Picture], cuts: list[int]
) -> None:
    with CuttingProxy(duo.compositing.address, iter(cuts)) as proxy:
        events = events_of(proxy.address, speech[:48_000], "demo", output="h264", quality="high")
    assert proxy.connections == len(cuts) + 1
    frames = [event for event in events if isinstance(event, Frame)]
    assert [frame.number for frame in frames] == list(range(75))
    resumed = [event.next_number for event in events if isinstance(event, Resumed)]
    assert len(resumed) == len(cuts)
    assert [frame.number for frame in frames if frame.key_frame] == sorted({0, *resumed})
    assert min(map(psnr, decoded(frames), raw)) > 41


async def test_every_frame_can_be_decoded_through_interrupts_switches_and_requests(
    duo: Duo, demo: Avatar, speech: np.ndarray
) -> None:
    """The picture around the mouth is the one that the frame names, whatever was dropped before it."""
    events: list[SessionEvent] = []
    async with (
        AsyncClient(duo.compositing.address) as client,
        client.session("demo", output="h264", look_ahead_frames=6) as session,
    ):
        for round_ in range(4):
            pushing = asyncio.create_task(session.push(speech[:32_000]))  # it waits while nothing is read
            await seen(session, events, lambda event: isinstance(event, Frame) and event.speech)
            await seen(session, events, lambda event: isinstance(event, Frame), count=3 + round_)
            await session.interrupt()
            await pushing
            await seen(session, events, lambda event: isinstance(event, Interrupted))
            await session.request_key_frame()
            if round_ % 2:
                await session.switch("demo", start_frame=40)
                await seen(session, events, lambda event: isinstance(event, AvatarSwitched))
            await seen(session, events, lambda event: isinstance(event, Frame), count=4)
    frames = [event for event in events if isinstance(event, Frame)]
    assert [frame.number for frame in frames] == list(range(len(frames)))
    pictures = decoded(frames)
    assert len(pictures) == len(frames)
    for frame, picture in zip(frames, pictures, strict=True):
        true, rect = demo.read_frame(frame.index), demo.rects[frame.index]
        around = np.ones(true.shape[:2], bool)
        around[rect.y1 : rect.y2, rect.x1 : rect.x2] = False
        assert psnr(picture[around], true[around]) > 39, frame.number
    starts = [place for place, frame in enumerate(frames) if frame.key_frame]
    assert len(starts) >= 5
    for start, end in pairwise([*starts, len(frames)]):
        assert np.array_equal(decoded(frames[start:end])[-1], pictures[end - 1])


def test_so_many_sessions_are_encoded_and_no_more(models_root: Path, duo: Duo, tmp_path: Path) -> None:
    settings = f"models_root={models_root}", f"inference_server.url={duo.inference.address}", "sessions.max_h264=2"
    with running("compositing", *settings, log=tmp_path / "log") as service, grpc.insecure_channel(service.address) as channel:
        stub = CompositingServiceStub(channel)

        def talking(**fields: Any) -> Talk:
            return Talk(stub, config(output_format=pb.FORMAT_H264, **fields))

        resume = pb.SessionResume(next_number=5, segment=1)
        with talking(model_id="demo") as first:
            first.wait(lambda: first.frames)
            with talking() as second, talking(resume=resume) as third:
                for each in (second, third):
                    each.wait(lambda each=each: each.frames)
                with talking() as refused, Talk(stub, config()) as pictures:
                    pictures.wait(lambda: pictures.frames)
                    error = refused.failure()
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        until(lambda: service.metric("lipsync_session_encoding_places") == 0)
        with talking() as again:
            again.wait(lambda: again.frames)


def test_a_service_can_be_kept_from_encoding(models_root: Path, duo: Duo, tmp_path: Path) -> None:
    settings = f"models_root={models_root}", f"inference_server.url={duo.inference.address}", "sessions.max_h264=0"
    with (
        running("compositing", *settings, log=tmp_path / "log") as service,
        grpc.insecure_channel(service.address) as channel,
        Talk(CompositingServiceStub(channel), config(output_format=pb.FORMAT_H264)) as talk,
    ):
        error = talk.failure()
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "sessions.max_h264" in error.details()


@pytest.mark.parametrize("name", ["film.mp4", "a:b.mp4"])
def test_a_film_is_written_of_the_units_as_they_come(
    duo: Duo, speech: np.ndarray, raw: list[Picture], tmp_path: Path, name: str
) -> None:
    recording, film = tmp_path / "speech.wav", tmp_path / name
    with wave.open(str(recording), "wb") as sound:
        sound.setparams((2, 2, 16_000, 0, "NONE", ""))
        sound.writeframes((speech[:48_000, None] * 32767).repeat(2, axis=1).astype("<i2").tobytes())
    given = "--avatar", "demo", "--audio", str(recording), "--server", duo.compositing.address, "--out", str(film)
    done = CliRunner().invoke(app, ["render", *given, "--output", "h264"])
    assert done.exit_code == 0, done.output
    assert "75 frames" in done.stdout
    with av.open(str(film)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.average_rate, audio.channels) == ("h264", 25, 2)
        pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video)]
    assert min(map(psnr, pictures, raw)) > 39
    assert len(pictures) == len(raw)
    with av.open(str(film)) as container:
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)[0][:48_000]
    assert np.corrcoef(heard, speech[:48_000])[0, 1] > 0.98
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["speech.wav", name])


def test_a_film_of_units_needs_speech_and_has_no_strip(tmp_path: Path) -> None:
    given = "render", "--avatar", "demo", "--out", str(tmp_path / "a.mp4"), "--output", "h264"
    for more in (["--stored-features"], ["--audio", "a.wav", "--strip", "a.png"]):
        done = CliRunner().invoke(app, [*given, *more])
        assert done.exit_code == 2
        assert "--output" in done.output
