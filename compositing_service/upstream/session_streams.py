"""Finds the replicas behind an endpoint for the orders of live sessions: one lasting call for each, for all sessions.

Behind one endpoint there may be several replicas, and a balancer chooses one for each call. So a new call is opened for each
session that asks for a place, and once in a while for each avatar, with the metadata that balancers go by. It becomes a stream if
it reaches a replica that none reaches yet. The orders of an avatar take the replicas in turn that calls for it have reached.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from grpc import aio

from compositing_service.upstream.errors import lost, of_broken_stream
from compositing_service.upstream.order_stream import OrderStream, StreamCall
from service_kit import request_context
from service_kit.clock import Clock
from shared_proto import mouth_region
from shared_proto.aio_reading import read_message

# A replica that was started later gets orders after so long at most.
_LOOK_AGAIN_S = 10.0
# An older service may have been replaced by then.
_ASK_AGAIN_S = 60.0
_MOST_AVATARS = 1000

_END: Any = aio.EOF  # type: ignore[attr-defined]  # missing in the stubs

log = logging.getLogger(__name__)

Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(eq=False, slots=True)
class _Avatar:
    """The replicas that calls for one avatar have reached, by name, and when one was opened last."""

    replicas: dict[str, None] = field(default_factory=dict)
    """The one whose turn it is first."""
    looked_s: float = float("-inf")
    looking: asyncio.Task[None] | None = None


@dataclass(eq=False, slots=True)
class SessionStreams:
    """The streams of one endpoint. `begin` opens a call with this metadata."""

    begin: Callable[[Metadata], StreamCall]
    clock: Clock
    _streams: dict[str, OrderStream] = field(default_factory=dict)
    """By replica."""
    _avatars: OrderedDict[str, _Avatar] = field(default_factory=OrderedDict)
    """Those of the latest orders."""
    _lacking_until_s: float = float("-inf")
    """The service is older, and lacks the RPC."""

    def ready(self, avatar_id: str, numerics: str = "") -> OrderStream | None:
        """Returns the stream for an order of this avatar, if `pick` would return one at once.

        With `numerics`, first one that is not known to compute this avatar's mouths in another way.
        """
        avatar = self._avatars.get(avatar_id)
        if avatar is None or self.clock.now() > avatar.looked_s + _LOOK_AGAIN_S:
            return None
        streams = [stream for replica in avatar.replicas if (stream := self._streams.get(replica))]
        if not streams:
            return None
        stream = min(streams, key=lambda stream: stream.numerics.differ(avatar_id, numerics))  # of equal ones the first
        avatar.replicas[stream.replica] = avatar.replicas.pop(stream.replica)  # at the end now
        return stream

    async def pick(self, avatar_id: str, *, for_new_session: bool, numerics: str = "") -> OrderStream | None:
        """Returns the stream for an order of this avatar; None: the service is older. Raises grpc.aio.AioRpcError."""
        if self.clock.now() < self._lacking_until_s:
            return None
        avatar = self._avatar(avatar_id)
        if for_new_session:
            await self._look(avatar_id, avatar)
        elif not any(each in self._streams for each in avatar.replicas):
            await asyncio.shield(self._looking(avatar_id, avatar))
        elif self.clock.now() > avatar.looked_s + _LOOK_AGAIN_S:
            self._looking(avatar_id, avatar).add_done_callback(_see_error)
        avatar.replicas = {each: None for each in avatar.replicas if each in self._streams}
        if self.clock.now() < self._lacking_until_s:
            return None
        if stream := self.ready(avatar_id, numerics):
            return stream
        raise lost("the stream ended as soon as it began")

    def retire(self) -> None:
        """Lets all streams end with their orders; later orders get new ones."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.retire()

    def _avatar(self, avatar_id: str) -> _Avatar:
        avatar = self._avatars.setdefault(avatar_id, _Avatar())
        self._avatars.move_to_end(avatar_id)
        if len(self._avatars) > _MOST_AVATARS:
            self._avatars.popitem(last=False)
        return avatar

    def _looking(self, avatar_id: str, avatar: _Avatar) -> asyncio.Task[None]:
        """Looks for another replica, once for all orders that need one."""
        if avatar.looking is None or avatar.looking.done():
            avatar.looked_s = self.clock.now()
            avatar.looking = asyncio.create_task(self._look(avatar_id, avatar), context=Context())
        return avatar.looking

    async def _look(self, avatar_id: str, avatar: _Avatar) -> None:
        """Opens a call for this avatar, and notes which replica it reaches. Raises grpc.aio.AioRpcError."""
        avatar.looked_s = self.clock.now()
        call = self.begin(((request_context.AVATAR_ID_KEY, avatar_id),))
        try:
            data = await read_message(call)
            if data is _END:
                await call.code()
                raise lost("the service takes no streams")
            replica = mouth_region.decode_replies(data).fields.replica
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise of_broken_stream(error) from None
            self._lacking_until_s = self.clock.now() + _ASK_AGAIN_S
            return
        except BaseException:
            call.cancel()
            raise
        # The one that orders take next: it is where the balancer wants the session.
        avatar.replicas = {replica: None} | avatar.replicas
        if replica not in self._streams:
            self._streams[replica] = OrderStream(call, replica, self._forget)
            return
        with suppress(aio.AioRpcError, asyncio.InvalidStateError):  # it has done its duty, however it ends
            await call.done_writing()
            await read_message(call)

    def _forget(self, stream: OrderStream) -> None:
        if self._streams.get(stream.replica) is stream:
            del self._streams[stream.replica]


def _see_error(looking: asyncio.Task[None]) -> None:
    """Takes the error of a look in vain: the streams that are there go on."""
    if not looking.cancelled() and (error := looking.exception()):
        log.debug("no other replica was found: %s", error)
