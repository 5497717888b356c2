"""The rooms in which avatars are."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import jwt
from livekit import rtc

from lipsync_adapters.livekit.room import AvatarRoom, Invitation, Voicing
from lipsync_client.conversation import Server
from service_kit.admission import RunningCalls

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A participant's place in a room."""

    url: str
    room: str
    identity: str


@dataclass(eq=False)
class Held:
    """A room that an avatar is in."""

    id: str
    place: Place
    room: AvatarRoom
    request: str
    """Finds it again when the agent asks twice; empty: it asks once."""
    task: asyncio.Task[None] | None = None


class Rooms:
    """Lets avatars join rooms, and leave them."""

    def __init__(
        self,
        voicing: Voicing,
        server: Callable[[str], Server],
        calls: RunningCalls,
        *,
        join_s: float,
        make_room: Callable[[], rtc.Room] = rtc.Room,
    ) -> None:
        """`server` says how to reach a session with this id. Each room counts as one of the running calls."""
        self._voicing = voicing
        self._server = server
        self._calls = calls
        self._join_s = join_s
        self._make_room = make_room
        self._held: dict[str, Held] = {}

    @property
    def held(self) -> list[Held]:
        """Rooms that run, the oldest first."""
        return list(self._held.values())

    async def launch(self, invitation: Invitation, *, request: str = "") -> tuple[Held, bool]:
        """Lets an avatar join a room; one that has this place already leaves first. Tells if it is new.

        Raises ValueError for a token that is none, ResourceExhausted without room for one more, TimeoutError, and what
        `AvatarRoom.join` raises.
        """
        place = _place_of(invitation)
        for held in self.held:
            if request and held.request == request:
                return held, False
            if held.place == place:
                await self.end(held.id)
        name = uuid.uuid4().hex
        held = Held(name, place, AvatarRoom(invitation, self._server(name), self._voicing, self._make_room), request)
        joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        held.task = asyncio.create_task(self._hold(held, joined))
        self._held[held.id] = held
        try:
            async with asyncio.timeout(self._join_s):
                await joined
        except BaseException:
            await self.end(held.id)
            raise
        return held, True

    async def end(self, room_id: str) -> None:
        """Lets an avatar leave its room. Does nothing when it has left."""
        held = self._held.get(room_id)
        if held and held.task:
            held.task.cancel()
            await asyncio.wait([held.task])

    async def close(self) -> None:
        """Lets all leave."""
        await asyncio.gather(*(self.end(held.id) for held in self.held))

    async def _hold(self, held: Held, joined: asyncio.Future[None]) -> None:
        try:
            with self._calls.admit():
                try:
                    await held.room.join()
                    log.info("joined", extra={"room": held.place.room, "identity": held.place.identity, "session": held.id})
                    if not joined.done():
                        joined.set_result(None)
                    await held.room.run()
                finally:
                    await held.room.leave()
        except Exception as error:
            if joined.done():
                log.exception("an avatar lost its room", extra={"room": held.place.room, "session": held.id})
            else:
                joined.set_exception(error)
        finally:
            del self._held[held.id]
            with suppress(asyncio.InvalidStateError):
                joined.cancel()
            log.info("left", extra={"room": held.place.room, "session": held.id})


def _place_of(invitation: Invitation) -> Place:
    """Reads where a token lets its bearer join. LiveKit's server checks it. Raises ValueError."""
    try:
        claims = jwt.decode(invitation.token, options={"verify_signature": False})
        return Place(invitation.url, claims["video"]["room"], claims["sub"])
    except (jwt.PyJWTError, KeyError, TypeError):
        raise ValueError("token: not one that lets a participant join a room") from None
