"""The worker's HTTP face and the agent's plug-in, each the real one, with a room that needs no LiveKit server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from livekit import api, rtc
from livekit.agents import AgentSession, APIConnectOptions, APIStatusError, utils
from livekit.plugins.lipsync import AvatarSession, LipsyncException

from lipsync_adapters.livekit.application import WorkerApplication
from lipsync_adapters.livekit.room import Voicing
from lipsync_adapters.livekit.rooms import Rooms
from lipsync_adapters.livekit.settings import RoomsSection
from lipsync_client.conversation import Server
from service_kit.admission import RunningCalls

from .livekit_rooms import AGENT, AVATAR, Hall, Subscriber, subscribed
from .served import speech
from .test_livekit_room import spoken

RATE = 24_000
URL = "ws://livekit.test"
KEYS = {"livekit_url": URL, "livekit_api_key": "key", "livekit_api_secret": "a secret of more than thirty-two letters"}


def token(identity: str = AVATAR, room: str = "room") -> str:
    grants = api.VideoGrants(room_join=True, room=room)
    return api.AccessToken("key", KEYS["livekit_api_secret"]).with_identity(identity).with_grants(grants).to_jwt()


class Worker:
    """A worker whose avatars join a hall."""

    def __init__(self, server: str, *, limit: int = 5, **section: Any) -> None:
        self.hall = Hall()
        self.calls = RunningCalls(limit)
        self.draining = asyncio.Event()

        def reached(session_id: str) -> Server:
            return Server(
                address=server, api_key=None, tls=None, session_id=session_id, options={"sample_rate": RATE}, patience_s=60
            )

        self.rooms = Rooms(Voicing(RATE, 2_000_000), reached, self.calls, join_s=30, make_room=self.hall.for_avatar)
        self.application = WorkerApplication(
            self.rooms, RoomsSection(avatar="small", **section), receive_s=30, draining=self.draining
        )


@asynccontextmanager
async def working(server: str, **more: Any) -> AsyncIterator[tuple[Worker, TestClient[Any, Any]]]:
    worker = Worker(server, **more)
    async with TestClient(TestServer(worker.application.build())) as client:
        try:
            yield worker, client
        finally:
            await worker.rooms.close()


async def problem(response: Any) -> tuple[int, str]:
    assert response.content_type == "application/problem+json"
    return response.status, (await response.json())["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"room_name": "room", "url": URL, "token": token()},
        {"room_name": "room", "livekit_url": URL, "livekit_token": token(), "avatar_id": "small"},
    ],
    ids=["as LiveKit's example", "with other names"],
)
async def test_a_launched_avatar_joins_and_leaves(server: str, body: dict[str, str]) -> None:
    async with working(server) as (worker, client):
        answer = await client.post("/launch", json=body)
        told = await answer.json()
        assert answer.status == 201
        assert (told["room_name"], told["identity"], told["avatar"]) == ("room", AVATAR, "small")
        assert AVATAR in worker.hall.rooms
        assert (await (await client.get("/rooms")).json())["rooms"] == [told]
        for _ in range(2):
            assert (await client.delete(answer.headers["Location"])).status == 204
        assert worker.hall.rooms == {}
        assert worker.calls.running == 0


async def test_answers_do_not_tell_which_programs_run(server: str) -> None:
    async with working(server) as (_, client):
        for answer in (await client.get("/rooms"), await client.get("/nothing-here"), await client.post("/launch", data=b"{")):
            assert answer.headers["Server"] == "lipsync"


async def test_one_who_asks_twice_finds_the_avatar_and_another_replaces_it(server: str) -> None:
    body = {"room_name": "room", "url": URL, "token": token()}
    async with working(server) as (worker, client):
        answers = [await client.post("/launch", json=body, headers={"Idempotency-Key": key}) for key in ("one", "one", "two")]
        first, again, other = [(await answer.json())["id"] for answer in answers]
        assert [answer.status for answer in answers] == [201, 200, 201]
        assert first == again != other
        assert [held.id for held in worker.rooms.held] == [other]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, "url: missing; token: missing"),
        ({"url": "file:///etc", "token": "x"}, 400, "not of a LiveKit server"),
        ({"url": "wss://elsewhere", "token": token()}, 400, "may join"),
        ({"url": URL, "token": "nonsense"}, 400, "token"),
        ({"url": URL, "token": 5}, 400, "not a text"),
        ({"url": URL, "token": token(), "avatar": "nobody"}, 404, "nobody"),
    ],
)
async def test_what_cannot_be_launched_is_told(server: str, body: dict[str, Any], status: int, told: str) -> None:
    async with working(server, allowed_urls=(URL,)) as (worker, client):
        found, detail = await problem(await client.post("/launch", json=body))
        assert found == status
        assert told in detail
        assert worker.rooms.held == []
        assert worker.calls.running == 0


async def test_a_full_worker_and_one_that_ends_say_when_to_come_back(server: str) -> None:
    async with working(server, limit=1) as (worker, client):
        assert (await client.post("/launch", json={"url": URL, "token": token()})).status == 201
        refused = await client.post("/launch", json={"url": URL, "token": token("second")})
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        worker.draining.set()
        refused = await client.post("/launch", json={"url": URL, "token": token()})
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert len(worker.rooms.held) == 1


async def test_a_service_that_is_not_there_is_told() -> None:
    async with working("127.0.0.1:1") as (_, client):
        status, detail = await problem(await client.post("/launch", json={"url": URL, "token": token()}))
        assert (status, "UNAVAILABLE" in detail) == (503, True)


class Agent:
    """An agent's job: its room, its session, and the plug-in."""

    def __init__(self, worker: Worker, url: str, **more: Any) -> None:
        self.room: Any = worker.hall.for_agent()
        self.session: AgentSession[Any] = AgentSession()
        self.avatar = AvatarSession(
            worker_url=url, avatar_participant_identity=AVATAR, conn_options=APIConnectOptions(max_retry=0), **more
        )

    async def say(self, sound: np.ndarray) -> None:
        output: Any = self.session.output.audio
        for first in range(0, len(sound), RATE // 10):
            piece = sound[first : first + RATE // 10]
            await output.capture_frame(rtc.AudioFrame(piece.tobytes(), RATE, 1, len(piece)))
        output.flush()


@asynccontextmanager
async def agent_of(server: str, **more: Any) -> AsyncIterator[tuple[Agent, Worker, Subscriber]]:
    async with working(server) as (worker, client), utils.http_context.open():
        agent = Agent(worker, str(client.make_url("/")), **more)
        await agent.room.connect("", "")
        async with subscribed(worker.hall, RATE) as subscriber:
            try:
                yield agent, worker, subscriber
            finally:
                await agent.avatar.aclose()


async def test_an_agent_speaks_through_the_plug_in(server: str) -> None:
    sound = speech(1)
    async with agent_of(server, avatar="demo") as (agent, worker, heard):
        await agent.avatar.start(agent.session, agent.room, **KEYS)
        assert [held.place.identity for held in worker.rooms.held] == [AVATAR]
        output: Any = agent.session.output.audio
        finished: list[Any] = []
        output.on("playback_finished", finished.append)
        await agent.say(sound)
        await heard.until(lambda: finished and spoken(heard.sound, sound))
        assert (finished[0].interrupted, round(finished[0].playback_position, 2)) == (False, round(len(sound) / RATE, 2))
        await agent.avatar.switch_avatar("small")
        await heard.until(lambda: heard.sizes[-1] != (1280, 720))
        with pytest.raises(LipsyncException, match="nobody"):
            await agent.avatar.switch_avatar("nobody")
        await agent.avatar.aclose()
        assert worker.rooms.held == []
        assert list(worker.hall.rooms) == [AGENT]


async def test_a_refusal_leaves_nothing_behind(server: str) -> None:
    async with agent_of(server, avatar="nobody") as (agent, worker, _):
        with pytest.raises(APIStatusError, match="nobody"):
            await agent.avatar.start(agent.session, agent.room, **KEYS)
        assert worker.rooms.held == []


async def test_the_token_is_for_this_avatar_in_this_room_alone(server: str) -> None:
    async with agent_of(server) as (agent, _, _):
        claims = api.TokenVerifier("key", KEYS["livekit_api_secret"]).verify(
            agent.avatar._token("room", AGENT, "key", KEYS["livekit_api_secret"])
        )
        assert (claims.identity, claims.kind, claims.attributes) == (AVATAR, "agent", {"lk.publish_on_behalf": AGENT})
        assert claims.video
        assert (claims.video.room, claims.video.can_subscribe) == ("room", False)
        assert claims.video.can_publish_sources == ["camera", "microphone"]
