"""Answers the requests of one upstream, one message at a time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from prometheus_client import Counter

from gateway_service.earlier import binary, text
from gateway_service.earlier.errors import BadMessage
from gateway_service.earlier.sound import pieces_of
from gateway_service.earlier.upstream import EarlierUpstream
from lipsync_client import LipsyncError
from lipsync_client.earlier import ClipFrame
from service_kit.callers.caller import check_avatar, current
from service_kit.errors import PermissionDenied

# Calls under way, of all sockets; more wait. One connection carries about as many streams.
MOST_CALLS = 100

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Answers:
    """Answers requests, each with one message: text to text, bytes to bytes, but for the bytes of `get_video_frame`."""

    upstream: EarlierUpstream
    list_models: Callable[[], Awaitable[list[str]]]
    """Returns the ids of the avatars that can be served. Raises LipsyncError."""
    counted: Counter
    """Counts the answers, by `outcome`: met or failed."""
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_CALLS))

    async def answer(self, message: str | bytes) -> str | bytes:
        """Returns the answer to a message, whatever it is."""
        try:
            async with self.room:
                answer = await (self._to_bytes(message) if isinstance(message, bytes) else self._to_text(message))
        except Exception:
            log.exception("an earlier client's request could not be answered")
            answer = binary.FAILED if isinstance(message, bytes) else text.error_answer("internal error; see the log")
        met = bool(answer) if isinstance(answer, bytes) else answer["success"]
        self.counted.labels("met" if met else "failed").inc()
        return answer if isinstance(answer, bytes) else json.dumps(answer)

    async def _to_bytes(self, message: bytes) -> bytes:
        try:
            request = binary.read_request(message)
            frame = await self._frame(request.avatar, request.frame_id, request.sound)
        except (BadMessage, LipsyncError) as error:
            log.debug("an earlier client's binary request failed: %s", error)
            return binary.FAILED
        return binary.frame_reply(request, frame)

    async def _to_text(self, message: str) -> text.Answer | bytes:
        try:
            request = text.read_request(message)
        except BadMessage as error:
            return text.error_answer(str(error))
        try:
            return await self._done(request)
        except BadMessage as error:
            return text.failed_answer(request, str(error))
        except LipsyncError as error:
            return text.failed_answer(request, error.message)

    async def _done(self, request: text.TextRequest) -> text.Answer | bytes:
        match request.type:
            case text.MODELS:
                return text.models_answer([each for each in await self.list_models() if current.get().may_use(each)])
            case text.METADATA:
                _check_avatar(request.model_name)
                return text.metadata_answer(await self.upstream.ask(lambda client: client.metadata(request.model_name)))
            case text.PICTURE:
                _check_avatar(request.model_name)
                name, frame_id, kind = request.model_name, request.frame_id, request.video_type
                jpeg = await self.upstream.ask(lambda client: client.picture(name, frame_id, kind))
                return binary.picture_reply(frame_id, kind, jpeg)
            case text.FRAME:
                frame = await self._frame(request.model_name, request.frame_id, request.sound)
                return text.frame_answer(request, frame)
            case _:
                return text.binary_answer()

    async def _frame(self, avatar: str, frame_id: int, sound: bytes) -> ClipFrame:
        _check_avatar(avatar)
        if not sound:
            return await self.upstream.ask(lambda client: client.frame(avatar, frame_id))
        pieces = pieces_of(sound)
        return await self.upstream.ask(lambda client: client.spoken_frame(avatar, frame_id, pieces))


def _check_avatar(avatar: str) -> None:
    """Raises BadMessage for an avatar that the caller may not use."""
    try:
        check_avatar(avatar)
    except PermissionDenied as error:
        raise BadMessage(error.message) from None
