"""Avatars, stills and moving pictures, as browsers ask for them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import cv2
import numpy as np

from lipsync_client import AsyncClient

from ..end_to_end.processes import Service
from ..jpegs import decoded
from .conftest import calling, running_gateway
from .shown_pictures import sessions, until_sessions
from .streams import pictures


async def taken(ws: aiohttp.ClientWebSocketResponse, count: int) -> AsyncIterator[aiohttp.WSMessage]:
    """Yields so many messages."""
    for _ in range(count):
        yield await ws.receive()


async def test_avatars_are_listed_with_what_a_page_needs(compositing: Service) -> None:
    async with calling(compositing.address) as http, http.get("/api/avatars") as answer:
        avatars = {each["id"]: each for each in (await answer.json())["avatars"]}
    small = avatars["small"]
    assert (small["width"], small["height"], small["fps"], small["error"]) == (416, 304, 25, "")
    assert small["still"] == "/api/avatars/small/still.jpg"
    assert avatars["other"]["frames"] == 3
    assert any(each["error"] for each in avatars.values())


async def test_a_still_is_the_person_at_rest_and_is_made_once(compositing: Service) -> None:
    async with AsyncClient(compositing.address) as client:
        at_rest = (await client.idle("small", 1)).frames[0]
        before = {each.id: each.stats.usage_count for each in (await client.stats()).avatars}
        async with calling(compositing.address) as http:
            answers = await asyncio.gather(*(http.get("/api/avatars/small/still.jpg") for _ in range(40)))
            stills = {await answer.read() for answer in answers}
            assert {answer.status for answer in answers} == {200}
        after = {each.id: each.stats.usage_count for each in (await client.stats()).avatars}
    assert stills == {at_rest}
    assert after["small"] == before["small"] + 1


async def test_a_still_comes_in_the_width_that_is_asked_for(compositing: Service) -> None:
    async with calling(compositing.address) as http:
        whole = await (await http.get("/api/avatars/small/still.jpg")).read()
        small = await (await http.get("/api/avatars/small/still.jpg?width=104")).read()
        assert decoded(small).shape == (76, 104, 3)
        assert np.abs(cv2.resize(decoded(whole), (104, 76), interpolation=cv2.INTER_AREA) - decoded(small).astype(int)).mean() < 4
        assert await (await http.get("/api/avatars/small/still.jpg?width=1900")).read() == whole
        for width in ("0", "15", "1921", "-5", "1e3", "", "\u0661\u0660\u0660", "999999999999999999999"):
            async with http.get("/api/avatars/small/still.jpg", params={"width": width}) as answer:
                assert answer.status == 400, width


async def test_a_browser_that_has_a_still_is_told_so(compositing: Service) -> None:
    async with calling(compositing.address, "pictures.still_seconds=120") as http:
        first = await http.get("/api/avatars/small/still.jpg")
        assert first.headers["Cache-Control"] == "public, max-age=120"
        known = {"If-None-Match": f'"elsewhere", {first.headers["ETag"]}'}
        async with http.get("/api/avatars/small/still.jpg", headers=known) as again:
            assert (again.status, await again.read()) == (304, b"")
            assert again.headers["ETag"] == first.headers["ETag"]
        async with http.get("/api/avatars/other/still.jpg", headers=known) as other:
            assert other.status == 200


async def test_an_avatar_at_rest_moves_and_all_its_viewers_share_a_session(compositing: Service) -> None:
    async with AsyncClient(compositing.address) as client:
        timeline = set((await client.idle("small", 12)).frames)
    async with calling(compositing.address) as http:
        viewers = [await http.get("/api/avatars/small/stream.mjpeg") for _ in range(5)]
        assert viewers[0].headers["Content-Type"].startswith("multipart/x-mixed-replace; boundary=")
        seen: list[set[bytes]] = []
        for viewer in viewers:
            frames = pictures(viewer)
            seen.append({await anext(frames) for _ in range(4)})
        assert all(len(each) > 1 for each in seen)
        assert set().union(*seen) <= timeline
        assert await sessions(compositing) == 1
        for viewer in viewers[:-1]:
            viewer.close()
        assert await sessions(compositing) == 1
        viewers[-1].close()
        await until_sessions(compositing, 0)


async def test_a_viewer_that_takes_nothing_slows_nobody_and_is_cut_off(compositing: Service) -> None:
    async with running_gateway(compositing.address, "pictures.stalled_viewer_seconds=1") as gateway:
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((gateway.address.host, gateway.address.port))
        lazy.sendall(b"GET /api/avatars/small/stream.mjpeg HTTP/1.1\r\nHost: here\r\n\r\n")
        url = f"http://{gateway.address.reachable}/api/avatars/small/stream.mjpeg"
        async with aiohttp.ClientSession() as http, http.get(url) as busy:
            frames = pictures(busy)
            for _ in range(20):
                await anext(frames)
            async with asyncio.timeout(60):
                while gateway.face.calls.running != 1:
                    await anext(frames)
        assert not ended_well(lazy)


def ended_well(connection: socket.socket) -> bool:
    """Reads what is left. False when the connection was cut off, and not brought to its end."""
    with connection:
        received = b""
        try:
            while part := connection.recv(1 << 16):
                received += part
        except ConnectionResetError:
            return False
        return received.endswith(b"0\r\n\r\n")


async def test_a_running_session_is_shown_to_who_knows_its_secret_until_it_ends(compositing: Service) -> None:
    async with calling(compositing.address) as http:
        async with http.ws_connect("/ws") as ws:
            await ws.send_json({"config": {"model_id": "small"}})
            started = (await ws.receive_json())["started"]
            viewer = await http.get(f"/api/sessions/{started['secret']}/stream.mjpeg")
            frames = pictures(viewer)
            sent = {message.data[40:] async for message in taken(ws, 20) if message.type is aiohttp.WSMsgType.BINARY}
            seen = {await anext(frames) for _ in range(5)}
            assert seen & sent
        rest = [frame async for frame in frames]
        assert len(rest) < 100
        for secret in (started["secret"], started["session_id"], "x", "a" * 1000, "%00", "é"):
            async with http.get(f"/api/sessions/{secret}/stream.mjpeg") as answer:
                assert answer.status == 404
                assert (await answer.json())["detail"] == "no session that runs here has this secret"


async def test_moving_pictures_end_with_the_gateway(compositing: Service) -> None:
    async with aiohttp.ClientSession() as http:
        async with calling(compositing.address, "server.grace_seconds=20") as inside:
            viewer = await http.get(f"{inside._base_url}/api/avatars/other/stream.mjpeg")
            frames = pictures(viewer)
            await anext(frames)
            began = asyncio.get_running_loop().time()
        assert len([frame async for frame in frames]) < 100
        assert asyncio.get_running_loop().time() - began < 15
        await until_sessions(compositing, 0)
