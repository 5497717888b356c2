"""Pictures and sound as a player gets them over WebRTC."""

from __future__ import annotations

import asyncio

import aiohttp
import av
import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_client import AsyncClient

from ..end_to_end.processes import Service
from ..gateway_http.conftest import calling
from ..gateway_http.shown_pictures import sessions, until_sessions
from ..jpegs import decoded
from .relay import every, nothing, relay
from .watching import Player, heard, player

AT_REST = "/api/avatars/demo/whep"
RATE_HZ = 16_000
IN_SYNC_S = 0.045
# The demo's mouth, wherever its head is: left, top, width, height.
MOUTH = (598, 382, 80, 61)


def grey(picture: av.VideoFrame) -> NDArray[np.uint8]:
    return cv2.cvtColor(picture.to_ndarray(format="bgr24"), cv2.COLOR_BGR2GRAY)


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
        relay(every(40, most=6)) as between,
        player(http, AT_REST, "video", through=between.before) as watching,
    ):
        await watching.until(pictures=20)
        async with asyncio.timeout(180):
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
        async with asyncio.timeout(180):
            while between.lost < 300:  # noqa: ASYNC110 - packets call nobody
                await asyncio.sleep(0.02)
        between.loses = nothing
        await until_undamaged(watching, compositing)
