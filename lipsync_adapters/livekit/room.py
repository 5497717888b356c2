"""One avatar in one LiveKit room, from its joining to the agent's leaving."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from livekit import rtc
from livekit.agents.voice.avatar import DataStreamAudioReceiver

from lipsync_adapters.livekit.generator import AvatarGenerator
from lipsync_adapters.livekit.runner import OneLayerRunner
from lipsync_client import LipsyncError
from lipsync_client.conversation import Server

# The agent for whom an avatar speaks, as LiveKit's agents write it into tokens.
ON_BEHALF_OF = "lk.publish_on_behalf"
SWITCH_AVATAR = "lipsync.switch_avatar"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Invitation:
    """A place in a room, as an agent gives it."""

    url: str
    """Address of the LiveKit server."""
    token: str
    """Lets a participant join the room."""
    avatar: str


@dataclass(frozen=True)
class Voicing:
    """Sound and picture of an avatar in a room."""

    rate: int
    """Hz."""
    bitrate: int
    """Most bits a second of the picture."""


class RoomReceiver(DataStreamAudioReceiver):
    """Hears the agent of one room. LiveKit's class has one handler an identity, which agents of several rooms may share."""

    @classmethod
    def _register_clear_buffer_rpc(
        cls, room: rtc.Room, *, caller_identity: str, handler: Callable[[rtc.RpcInvocationData], str]
    ) -> None:
        room.local_participant.register_rpc_method("lk.clear_buffer", handler)


class AvatarRoom:
    """An avatar in a room. `join`, then `run`, then `leave`, which must follow in any case."""

    def __init__(
        self, invitation: Invitation, server: Server, voicing: Voicing, make_room: Callable[[], rtc.Room] = rtc.Room
    ) -> None:
        """Call it on the event loop."""
        self._invitation = invitation
        self._voicing = voicing
        self._room = make_room()
        self._over = asyncio.Event()
        self._resources = AsyncExitStack()
        self._generator = AvatarGenerator(server, invitation.avatar, rate=voicing.rate)

    @property
    def avatar(self) -> str:
        """The avatar that is shown."""
        return self._generator.avatar

    async def join(self) -> None:
        """Opens the session and joins the room. Raises LipsyncError and rtc.ConnectError."""
        self._resources.push_async_callback(self._generator.close)
        self._started = await self._generator.open()
        await self._room.connect(self._invitation.url, self._invitation.token, rtc.RoomOptions(auto_subscribe=False))
        self._resources.push_async_callback(self._room.disconnect)

    async def run(self) -> None:
        """Speaks for the agent until it leaves, or the room ends."""
        self._room.on("disconnected", lambda *_: self._over.set())
        self._room.on("participant_disconnected", self._left)
        agent = self._room.local_participant.attributes.get(ON_BEHALF_OF)
        self._room.local_participant.register_rpc_method(SWITCH_AVATAR, self._switch)
        receiver = RoomReceiver(self._room, sender_identity=agent)
        runner = OneLayerRunner(
            self._room, receiver, self._generator, self._started, rate=self._voicing.rate, bitrate=self._voicing.bitrate
        )
        ends = asyncio.create_task(self._over.wait())
        runs = asyncio.create_task(_speak(runner, receiver))
        try:
            await asyncio.wait([ends, runs], return_when=asyncio.FIRST_COMPLETED)
            if runs.done():
                await runs
        finally:
            for task in (ends, runs):
                task.cancel()
            await asyncio.wait([ends, runs])

    async def leave(self) -> None:
        """Ends the session and leaves the room."""
        await self._resources.aclose()

    def _left(self, participant: rtc.RemoteParticipant) -> None:
        agent = self._room.local_participant.attributes.get(ON_BEHALF_OF)
        is_agent = participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
        if participant.identity == agent or (agent is None and is_agent):
            log.info("the agent has left the room", extra={"room": self._room.name})
            self._over.set()

    async def _switch(self, call: rtc.RpcInvocationData) -> str:
        """Answers an agent that wants another avatar: {"avatar": ID}."""
        agent = self._room.local_participant.attributes.get(ON_BEHALF_OF)
        if agent is not None and call.caller_identity != agent:
            raise rtc.RpcError(rtc.RpcError.ErrorCode.APPLICATION_ERROR, "only the agent may choose the avatar")
        try:
            avatar = json.loads(call.payload)["avatar"]
            if not isinstance(avatar, str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise rtc.RpcError(rtc.RpcError.ErrorCode.APPLICATION_ERROR, 'expected {"avatar": ID}') from None
        try:
            await self._generator.switch(avatar)
        except LipsyncError as error:
            raise rtc.RpcError(rtc.RpcError.ErrorCode.APPLICATION_ERROR, str(error)) from None
        return json.dumps({"avatar": avatar})


async def _speak(runner: OneLayerRunner, receiver: DataStreamAudioReceiver) -> None:
    try:
        await runner.start()
    except BaseException:  # its own aclose is for one that has started
        await receiver.aclose()
        await runner.av_sync.aclose()
        raise
    try:
        await runner.wait_for_complete()
    finally:
        await runner.aclose()
