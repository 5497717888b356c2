"""Pictures and sound as a player gets them over WebRTC."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import AsyncIterator
from itertools import pairwise

import aiohttp
import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lipsync_client import AsyncClient

from ..end_to_end.processes import Service
from ..gateway_http.conftest import calling, running_gateway
from ..gateway_http.test_pictures import decoded, sessions, until_sessions
from ..gateway_page.conftest import SPEECH
from ..gateway_service.sockets import Page, Shown, page
from .relay import every, nothing, relay
from .watching import Player, player

AT_REST = "/api/avatars/demo/whep"
RATE_HZ = 16_000
IN_SYNC_S = 0.045
# The demo's mouth, wherever its head is: left, top, width, height.
MOUTH = (598, 382, 80, 61)


def grey(picture: av.VideoFrame) -> NDArray[np.uint8]:
    return cv2.cvtColor(picture.to_ndarray(format="bgr24"), cv2.COLOR_BGR2GRAY)


def heard(watching: Player) -> NDArray[np.float32]:
    """The sound as one, [samples] at 16 kHz, silent where none came."""
    begin = watching.sound[0].pts
    mono = np.zeros((watching.sound[-1].pts - begin) // 3 + 320, np.float32)
    for frame in watching.sound:
        place = (frame.pts - begin) // 3
        mono[place : place + 320] = frame.to_ndarray().reshape(320, 6).mean(axis=1) / 32768
    return mono


async def still(http: aiohttp.ClientSession) -> NDArray[np.uint8]:
    async with http.get("/api/avatars/demo/still.jpg") as answer:
        return decoded(await answer.read())


async def test_an_avatar_at_rest_moves_and_is_silent(compositing: Service) -> None:
    async with calling(compositing.address) as http, player(http, AT_REST) as watching:
        await watching.until(pictures=30, sound=40)
    shown = [grey(frame).astype(int) for frame in watching.pictures]
    assert shown[0].shape == (720, 1280)
    assert max(np.abs(shown[0] - each).max() for each in shown) > 20
    assert np.abs(heard(watching)).max() < 0.001


async def test_the_colours_are_those_of_the_still(compositing: Service) -> None:
    async with calling(compositing.address) as http:
        expected = await still(http)
        async with player(http, AT_REST) as watching:
            await watching.until(pictures=3)
    assert cv2.PSNR(watching.pictures[-1].to_ndarray(format="bgr24"), expected) > 32


async def test_all_viewers_of_an_avatar_share_a_session_that_ends_with_the_last(compositing: Service) -> None:
    async with calling(compositing.address) as http:
        both, seen, heard = player(http, AT_REST), player(http, AT_REST, "video"), player(http, AT_REST, "audio")
        async with both as first, seen as second, heard as third:
            await asyncio.gather(first.until(pictures=5), second.until(pictures=5), third.until(sound=5))
            assert not second.sound
            assert not third.pictures
            assert await sessions(compositing) == 1
        await until_sessions(compositing, 0)


async def test_a_viewer_who_comes_later_sees_whole_pictures_at_once(compositing: Service) -> None:
    async with calling(compositing.address) as http:
        expected = await still(http)
        async with player(http, AT_REST) as first:
            await first.until(pictures=10)
            async with player(http, AT_REST) as second:
                await second.until(pictures=1)
    assert cv2.PSNR(second.pictures[0].to_ndarray(format="bgr24"), expected) > 25


@pytest.fixture
async def talking(compositing: Service) -> AsyncIterator[tuple[aiohttp.ClientSession, Page, str]]:
    """A client of a gateway, a socket that holds a session there, and the address where it is watched."""
    async with running_gateway(compositing.address) as running:
        url = f"http://{running.address.reachable}"
        async with aiohttp.ClientSession(url) as http, page(url, {"model_id": "demo", "audio_encoding": "PCM_INT16"}) as socket:
            await socket.wait(lambda: socket.of("started"))
            yield http, socket, f"/api/sessions/{socket.of('started')[0]['secret']}/whep"


async def test_picture_and_sound_of_a_session_stay_together(talking: tuple[aiohttp.ClientSession, Page, str]) -> None:
    http, socket, address = talking
    sound = soundfile()
    async with player(http, address) as watching:
        await watching.until(pictures=5)
        await socket.say(sound.tobytes(), iter(lambda: 6400, 0))
        await socket.send(end_of_segment={})
        await socket.wait(lambda: socket.of("segment_ended"))
        await watching.until(pictures=len(watching.pictures) + 10, reports=4)
    steps = {second.pts - first.pts for first, second in pairwise(watching.sound)}
    if any(step % 1920 not in {0, 960} for step in steps):
        pytest.skip("the machine is so busy that the session's clock was set anew, and the media's with it")
    of_sound, of_pictures = offset_of_sound(watching, socket.frames, sound), offset_of_pictures(watching, socket.frames)
    assert abs(of_sound - of_pictures) < IN_SYNC_S


def soundfile() -> NDArray[np.int16]:
    """The shipped recording, [samples] at 16 kHz."""
    with wave.open(str(SPEECH)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def offset_of_sound(watching: Player, frames: list[Shown], sound: NDArray[np.int16]) -> float:
    """Seconds from the session's clock to the time of the day, by what is heard."""
    first = frames[0].pts_us
    expected = np.zeros(len(frames) * 640, np.float32)
    for frame in frames:
        if frame.audio_us >= 0:
            piece = sound[frame.audio_us * 16 // 1000 :][:640]
            place = (frame.pts_us - first) * 16 // 1000
            expected[place : place + len(piece)] = piece / np.float32(32768)
    came = heard(watching)
    size = len(came) + len(expected)
    likeness = np.fft.irfft(np.fft.rfft(came, size) * np.conj(np.fft.rfft(expected, size)), size)
    lag = int(np.argmax(likeness))
    assert likeness[lag] > 0.5 * np.linalg.norm(came) * np.linalg.norm(expected)
    lag -= size if lag > len(came) else 0
    return watching.unix_s("audio", watching.sound[0].pts) + lag / RATE_HZ - first / 1e6


def offset_of_pictures(watching: Player, frames: list[Shown]) -> float:
    """The same by how far the mouth is open."""
    sent = np.array([opening(cv2.cvtColor(decoded(frame.picture), cv2.COLOR_BGR2GRAY)) for frame in frames])
    sent_s = np.array([frame.pts_us / 1e6 for frame in frames])
    came = np.array([opening(grey(picture)) for picture in watching.pictures])
    came_s = np.array([watching.unix_s("video", picture.pts) for picture in watching.pictures])
    guess = came_s[-1] - sent_s[-1]
    offsets = np.arange(-1, 1, 0.002)
    likeness = [np.corrcoef(came, np.interp(came_s - guess - offset, sent_s, sent))[0, 1] for offset in offsets]
    assert max(likeness) > 0.5
    return float(guess + offsets[int(np.argmax(likeness))])


def opening(picture: NDArray[np.uint8]) -> float:
    left, top, width, height = MOUTH
    return float((picture[top : top + height, left : left + width] < 90).mean())


async def test_a_viewer_of_a_session_is_told_of_its_end(talking: tuple[aiohttp.ClientSession, Page, str]) -> None:
    http, socket, address = talking
    async with player(http, address) as watching:
        await watching.until(pictures=5)
        await socket.send(close={})
        await socket.closed()
        await watching.until_over()
    async with http.post(address, data="v=0", headers={"Content-Type": "application/sdp"}) as answer:
        assert answer.status == 404


async def until_undamaged(watching: Player, service: Service) -> None:
    """Waits until the last pictures are those of the avatar at rest. A busy machine loses packets of its own."""
    async with AsyncClient(service.address) as client:
        timeline = [decoded(frame) for frame in (await client.idle("demo", 50)).frames]

    def is_whole() -> bool:
        shown = [picture.to_ndarray(format="bgr24") for picture in watching.pictures[-3:]]
        return all(max(cv2.PSNR(each, expected) for expected in timeline) > 30 for each in shown)

    async with asyncio.timeout(90):
        await watching.until(pictures=len(watching.pictures) + 25)
        while not await asyncio.to_thread(is_whole):
            await watching.until(pictures=len(watching.pictures) + 25)


async def test_lost_packets_are_sent_again(compositing: Service) -> None:
    async with (
        calling(compositing.address) as http,
        relay(every(100, most=6)) as between,
        player(http, AT_REST, "video", through=between.before) as watching,
    ):
        await watching.until(pictures=20)
        async with asyncio.timeout(60):
            while between.lost < 6:  # noqa: ASYNC110 - packets call nobody
                await asyncio.sleep(0.02)
        await until_undamaged(watching, compositing)


async def test_after_a_gap_a_key_picture_comes(compositing: Service) -> None:
    """More is lost than is kept to be sent again, so what follows cannot be decoded without one."""
    async with (
        calling(compositing.address) as http,
        relay(nothing) as between,
        player(http, AT_REST, "video", through=between.before) as watching,
    ):
        await watching.until(pictures=20)
        between.loses = lambda is_down: is_down
        async with asyncio.timeout(60):
            while between.lost < 300:  # noqa: ASYNC110 - packets call nobody
                await asyncio.sleep(0.02)
        between.loses = nothing
        await until_undamaged(watching, compositing)


async def test_a_session_that_is_watched_needs_no_pictures_at_its_socket(compositing: Service) -> None:
    async with running_gateway(compositing.address) as running:
        url = f"http://{running.address.reachable}"
        async with aiohttp.ClientSession(url) as http, page(url, {"model_id": "demo", "pictures": False}) as socket:
            await socket.wait(lambda: len(socket.frames) > 5)
            async with player(http, f"/api/sessions/{socket.of('started')[0]['secret']}/whep", "video") as watching:
                await watching.until(pictures=3)
    assert not any(frame.picture for frame in socket.frames)
    assert [frame.number for frame in socket.frames[:5]] == [0, 1, 2, 3, 4]
