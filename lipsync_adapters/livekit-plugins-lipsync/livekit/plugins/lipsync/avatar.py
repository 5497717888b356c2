"""Gives an agent's voice to an avatar."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from datetime import timedelta
from typing import Any

from livekit import api, rtc
from livekit.agents import DEFAULT_API_CONNECT_OPTIONS, AgentSession, APIConnectOptions, get_job_context
from livekit.agents.voice.avatar import AvatarSession as BaseAvatarSession
from livekit.agents.voice.avatar import DataStreamAudioOutput
from livekit.agents.voice.room_io import ATTRIBUTE_PUBLISH_ON_BEHALF

from .api import LaunchedAvatar, WorkerAPI
from .errors import LipsyncException
from .log import logger

URL_VARIABLE, KEY_VARIABLE = "LIPSYNC_WORKER_URL", "LIPSYNC_API_KEY"
DEFAULT_URL = "http://localhost:8089"
SWITCH_AVATAR = "lipsync.switch_avatar"
_SAMPLE_RATE = 24_000


class AvatarSession(BaseAvatarSession[Any]):
    """An avatar that joins the agent's room, speaks with its voice and is interrupted with it.

    The worker holds the avatar; `lipsync livekit serve` runs one. When the avatar's pictures fail, the voice goes on.
    """

    def __init__(
        self,
        *,
        avatar: str | None = None,
        worker_url: str | None = None,
        api_key: str | None = None,
        avatar_participant_identity: str = "lipsync-avatar",
        avatar_participant_name: str = "Avatar",
        max_duration: float = 14_400.0,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> None:
        """Initialize the session; `start` lets the avatar join.

        Args:
            avatar: Its id; by default the worker's own choice.
            worker_url: By default the environment's LIPSYNC_WORKER_URL, else http://localhost:8089.
            api_key: Sent to the worker; by default the environment's LIPSYNC_API_KEY.
            avatar_participant_identity: The avatar's identity in the room.
            avatar_participant_name: Its name there.
            max_duration: The avatar may join within so many seconds; it stays for as long as the agent does.
            conn_options: Attempts and time-outs of calls to the worker.
        """
        super().__init__()
        self._avatar = avatar
        self._identity, self._name = avatar_participant_identity, avatar_participant_name
        self._max_duration = timedelta(seconds=max_duration)
        self._api = WorkerAPI(
            worker_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL, api_key or os.environ.get(KEY_VARIABLE), conn_options
        )
        self._launched: LaunchedAvatar | None = None

    @property
    def avatar_identity(self) -> str:
        """The avatar's identity in the room."""
        return self._identity

    @property
    def provider(self) -> str:
        """The name that metrics carry."""
        return "lipsync"

    async def start(
        self,
        agent_session: AgentSession[Any],
        room: rtc.Room,
        *,
        livekit_url: str | None = None,
        livekit_api_key: str | None = None,
        livekit_api_secret: str | None = None,
    ) -> None:
        """Lets the avatar join the room, and gives it the agent's voice.

        Args:
            agent_session: Call this before its own `start`.
            room: The agent's.
            livekit_url: By default the environment's LIVEKIT_URL; the worker must reach it too.
            livekit_api_key: By default LIVEKIT_API_KEY.
            livekit_api_secret: By default LIVEKIT_API_SECRET.

        Raises:
            LipsyncException: Without LiveKit's address and keys, and when the avatar's identity is the agent's own.
            APIError: When the worker refuses or does not answer.
        """
        url = _given(livekit_url, "LIVEKIT_URL")
        key, secret = _given(livekit_api_key, "LIVEKIT_API_KEY"), _given(livekit_api_secret, "LIVEKIT_API_SECRET")
        agent = _identity_of(room)
        if agent == self._identity:
            raise LipsyncException("the avatar needs another identity than the agent")
        token = self._token(room.name, agent, key, secret)
        await super().start(agent_session, room)
        request = self._request_of(url, room.name, agent)
        launching = asyncio.ensure_future(
            self._api.launch(room=room.name, url=url, token=token, avatar=self._avatar, request=request)
        )
        try:  # once asked for, an avatar must be known, or it would stay in the room
            self._launched = await asyncio.shield(launching)
        except BaseException:
            if not launching.done():
                self._launched = await launching
            await self.aclose()
            raise
        agent_session.output.replace_audio_tail(
            DataStreamAudioOutput(
                room=room,
                destination_identity=self._identity,
                sample_rate=_SAMPLE_RATE,
                wait_remote_track=rtc.TrackKind.KIND_VIDEO,
                wait_playback_start=True,
            )
        )
        logger.debug("the avatar has joined", extra={"avatar": self._launched.avatar, "session": self._launched.id})

    async def switch_avatar(self, avatar: str) -> None:
        """Shows another avatar, also within a sentence. Returns once it is there.

        Args:
            avatar: Its id.

        Raises:
            LipsyncException: When it cannot be shown; the avatar stays as it is.
        """
        if self._room is None:
            raise LipsyncException("the avatar has not been started")
        try:
            await self._room.local_participant.perform_rpc(
                destination_identity=self._identity, method=SWITCH_AVATAR, payload=json.dumps({"avatar": avatar})
            )
        except rtc.RpcError as error:
            raise LipsyncException(error.message) from None

    async def aclose(self) -> None:
        """Lets the avatar leave."""
        launched, self._launched = self._launched, None
        try:
            if launched:
                await self._api.end(launched.id)
        except Exception as error:  # it leaves with the agent
            logger.warning("the worker did not end the avatar: %s", error)
        finally:
            await super().aclose()

    def _token(self, room: str, agent: str, key: str, secret: str) -> str:
        """Makes what lets the avatar, and nobody else, join this room alone."""
        grants = api.VideoGrants(room_join=True, room=room, can_subscribe=False, can_publish_sources=["camera", "microphone"])
        return (
            api.AccessToken(api_key=key, api_secret=secret)
            .with_kind("agent")
            .with_identity(self._identity)
            .with_name(self._name)
            .with_grants(grants)
            .with_attributes({ATTRIBUTE_PUBLISH_ON_BEHALF: agent})
            .with_ttl(self._max_duration)
            .to_jwt()
        )

    def _request_of(self, url: str, room: str, agent: str) -> str:
        """Names this avatar of this job: a job that is delivered twice finds the avatar that it has."""
        job = get_job_context(required=False)
        if job is None:
            return str(uuid.uuid4())
        return str(uuid.uuid5(uuid.NAMESPACE_URL, "\n".join((job.job.id, url, room, agent, self._identity, self._avatar or ""))))


def _given(value: str | None, variable: str) -> str:
    found = value or os.environ.get(variable)
    if not found:
        raise LipsyncException(f"give {variable.lower()}, or set {variable}")
    return found


def _identity_of(room: rtc.Room) -> str:
    """Returns the agent's identity, which the job knows before the room is connected."""
    job = get_job_context(required=False)
    if job and job.local_participant_identity:
        return job.local_participant_identity
    if room.isconnected():
        return room.local_participant.identity
    raise LipsyncException("connect the room, or start the avatar within a job")
