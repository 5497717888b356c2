"""Sessions that a WebSocket holds, as who watches them over WebRTC sees and hears them."""

from __future__ import annotations

import asyncio
import itertools
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import aiohttp
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ..end_to_end.processes import Service, free_port, running
from ..gateway_http.conftest import running_gateway
from ..gateway_page.conftest import SPEECH
from ..gateway_service.sockets import Page, Shown, page
from ..jpegs import decoded
from .test_watching import grey
from .watching import Player, heard, player

RATE_HZ = 16_000
IN_SYNC_S = 0.045
# The demo's mouth, wherever its head is: left, top, width, height.
MOUTH = (598, 382, 80, 61)
# Bytes of 200 ms.
PIECES = 6400


Talking = tuple[aiohttp.ClientSession, Page, str]
"""A client of a gateway, a socket that holds a session there, and the address where it is watched."""


@asynccontextmanager
async def talking_to(upstream: str, avatar: str) -> AsyncIterator[Talking]:
    async with running_gateway(upstream) as gateway:
        url = f"http://{gateway.address.reachable}"
        config = {"model_id": avatar, "audio_encoding": "PCM_INT16"}
        async with aiohttp.ClientSession(url) as http, page(url, config) as socket:
            await socket.wait(lambda: socket.of("started"))
            yield http, socket, f"/api/sessions/{socket.of('started')[0]['secret']}/whep"


@pytest.fixture
async def talking(compositing: Service) -> AsyncIterator[Talking]:
    async with talking_to(compositing.address, "demo") as opened:
        yield opened


async def test_picture_and_sound_of_a_session_stay_together(talking: Talking) -> None:
    http, socket, address = talking
    sound = soundfile()
    async with player(http, address) as watching:
        await watching.until(pictures=5)
        await socket.say(sound.tobytes(), itertools.repeat(PIECES))
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


async def test_a_viewer_of_a_session_is_told_of_its_end(talking: Talking) -> None:
    http, socket, address = talking
    async with player(http, address) as watching:
        await watching.until(pictures=5)
        await socket.send(close={})
        await socket.closed()
        await watching.until_over()
    async with http.post(address, data="v=0", headers={"Content-Type": "application/sdp"}) as answer:
        assert answer.status == 404


async def test_a_session_that_is_watched_needs_no_pictures_at_its_socket(compositing: Service) -> None:
    async with running_gateway(compositing.address) as gateway:
        url = f"http://{gateway.address.reachable}"
        async with aiohttp.ClientSession(url) as http, page(url, {"model_id": "demo", "pictures": False}) as socket:
            await socket.wait(lambda: len(socket.frames) > 5)
            async with player(http, f"/api/sessions/{socket.of('started')[0]['secret']}/whep", "video") as watching:
                await watching.until(pictures=3)
    assert not any(frame.picture for frame in socket.frames)
    assert [frame.number for frame in socket.frames[:5]] == [0, 1, 2, 3, 4]


async def test_another_avatar_is_shown_within_a_sentence_and_the_voice_goes_on(talking: Talking) -> None:
    http, socket, address = talking
    sound = soundfile()[: 5 * RATE_HZ]
    async with player(http, address) as watching:
        await watching.until(pictures=5)
        await socket.say(sound.tobytes(), itertools.repeat(PIECES))
        await socket.send(end_of_segment={})
        await socket.wait(lambda: len(socket.spoken) > 25)
        await socket.send(switch_avatar={"model_id": "small"})
        await socket.wait(lambda: socket.of("avatar_switched") and socket.of("segment_ended"))
        await watching.until(pictures=len(watching.pictures) + 10, reports=2)
    (switched,) = socket.of("avatar_switched")
    sizes = [(picture.width, picture.height) for picture in watching.pictures]
    assert [size for size, _ in itertools.groupby(sizes)] == [(1280, 720), (switched["width"], switched["height"])]
    assert all(after.pts > before.pts for before, after in pairwise(watching.pictures))
    offset_of_sound(watching, socket.frames, sound)


async def test_an_interruption_is_heard_at_once(talking: Talking) -> None:
    http, socket, address = talking
    sound = soundfile()[: 8 * RATE_HZ]
    async with player(http, address) as watching:
        await watching.until(pictures=5)
        await socket.say(sound.tobytes(), itertools.repeat(PIECES))
        await socket.wait(lambda: len(socket.spoken) > 50)
        await socket.send(interrupt={})
        await socket.wait(lambda: socket.of("interrupted"))
        await watching.until(sound=len(watching.sound) + 100, reports=2)
    (interrupted,) = socket.of("interrupted")
    assert 2_000_000 < interrupted["audio_us"] < 7_000_000
    came = heard(watching)
    loud = np.flatnonzero(np.abs(came) > 0.01)
    said_s = interrupted["audio_us"] / 1e6
    assert (loud[-1] - loud[0]) / RATE_HZ < said_s + 0.1
    assert not np.any(np.abs(came[-RATE_HZ:]) > 0.001)
    offset_of_sound(watching, socket.frames, sound)


async def test_a_viewer_stays_while_a_service_is_replaced(models_root: Path, tmp_path: Path) -> None:
    root, port = f"models_root={models_root}", free_port()
    with running("inference", root, "limits.admit_sessions=all", log=tmp_path / "inference") as inference:
        place = f"server.port=127.0.0.1:{port}", root, f"inference_server.url={inference.address}"
        with running("compositing", *place, log=tmp_path / "first") as first:
            async with talking_to(f"127.0.0.1:{port}", "small") as (http, socket, address), player(http, address) as watching:
                await socket.say(soundfile()[: 2 * RATE_HZ].tobytes(), itertools.repeat(PIECES))
                await socket.wait(lambda: len(socket.spoken) > 10)
                await watching.until(pictures=5)
                first.process.kill()
                await asyncio.to_thread(first.process.wait)
                with running("compositing", *place, log=tmp_path / "second"):
                    await socket.send(end_of_segment={})
                    await socket.wait(lambda: socket.of("resumed") and socket.of("segment_ended"))
                    await watching.until(pictures=len(watching.pictures) + 10, sound=len(watching.sound) + 20)
                    assert watching.connection.connectionState == "connected"
    assert [frame.audio_us for frame in socket.spoken] == [40_000 * number for number in range(50)]
