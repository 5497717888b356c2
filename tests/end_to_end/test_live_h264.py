"""Sessions with H.264, decoded by FFmpeg's own decoder: the pictures are those of raw output, and can be joined at key frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import av
import grpc
import numpy as np
import pytest

from avatar_kit.avatar import Avatar
from lipsync_client import AsyncClient, AsyncSession, AvatarSwitched, Frame, Session, Started
from shared_proto import compositing_pb2 as pb

from .conftest import Duo
from .test_client_sessions import talked

Picture = np.ndarray


def decoded(frames: Iterable[Frame]) -> list[Picture]:
    """What a decoder without threads makes of the access units: BGR by the colours that the stream itself names."""
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    pictures = []
    for frame in frames:
        pictures += decoder.decode(av.Packet(frame.picture))
    pictures += decoder.decode(None)
    assert all((picture.color_range, picture.colorspace) == (2, 6) for picture in pictures), "full range, BT.601"
    return [picture.to_ndarray(format="bgr24") for picture in pictures]


def spoken(duo: Duo, sound: np.ndarray, avatar: str, **options: Any) -> list[Frame]:
    """The frames of a sound, as fast as they are made."""

    def speak(session: Session) -> None:
        session.push(sound)

    events = talked(duo.compositing.address, speak, avatar=avatar, pacing="fast", **options)
    return [event for event in events if isinstance(event, Frame)]


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


async def next_frames(session: AsyncSession, count: int) -> list[Frame]:
    frames: list[Frame] = []
    while len(frames) < count:
        event = await anext(session)
        if isinstance(event, Frame):
            frames.append(event)
    return frames


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
