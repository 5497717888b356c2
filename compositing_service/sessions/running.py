"""The sessions of this replica: admits them by name, lists and ends them, and lets them leave when the service drains."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from compositing_service.metrics import CompositingMetrics
from compositing_service.outputs import H264Output
from compositing_service.request import RequestRules
from compositing_service.sessions.config import read_config
from compositing_service.sessions.messages import Parsed, first_config
from compositing_service.sessions.parts import Send, SessionParts
from compositing_service.sessions.session import LiveSession, open_session
from service_kit import request_context
from service_kit.callers.caller import Caller, check_avatar, current
from service_kit.errors import Cancelled, DeadlineExceeded, Unavailable
from service_kit.limits.quotas import Quotas
from shared_proto import compositing_pb2 as pb

_DRAINING = "the service is shutting down; resume on another replica"

_CHECK_S = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Holder:
    """The caller of a session, and the speech that was counted already."""

    caller: Caller
    charged_us: int = 0


@dataclass(eq=False, slots=True)
class Sessions:
    """All sessions that run."""

    parts: SessionParts
    rules: RequestRules
    quotas: Quotas
    _running: dict[LiveSession, _Holder] = field(default_factory=dict)
    """The oldest first."""
    _opening: set[asyncio.Timeout] = field(default_factory=set)
    """Time-outs of the calls whose session does not run yet."""
    _draining: bool = False

    def __post_init__(self) -> None:
        self.parts.metrics.session_buffered.set_function(
            lambda: sum(session.machine.buffered_ms for session in list(self._running)) / 1000
        )

    async def serve(self, messages: AsyncIterator[bytes], send: Send, caller: str) -> None:
        """Runs one session over encoded messages. Raises ServiceError unless it ends well. Log lines name the caller."""
        async with AsyncExitStack() as place:
            await self._serve(Parsed(messages), send, caller, place)

    async def _serve(self, requests: Parsed, send: Send, caller: str, place: AsyncExitStack) -> None:
        async with self._opening_in_time() as limit:
            self._check_draining()
            message = await first_config(requests)
            self._check_draining()
            if not limit.expired():
                limit.reschedule(None)
            session_id = request_context.session_id.get() or uuid.uuid4().hex
            request_context.session_id.set(session_id)
            config = read_config(message, self.rules)
            request_context.avatar_id.set(config.avatar_id)
            check_avatar(config.avatar_id)
            await place.enter_async_context(self.quotas.session(config.avatar_id, session_id))
            encoding = None
            if isinstance(config.output, H264Output):
                stream = self.parts.encoders.stream(config.output, is_resumed=config.plan.is_resumed)
                encoding = place.enter_context(stream)
            session = await open_session(session_id, config, self.parts, send, encoding)
        try:
            self._check_draining()
            with self._known(caller, session):
                await session.run(requests)
        finally:
            await session.close()

    def infos(self, caller: Caller | None = None) -> list[pb.SessionInfo]:
        """Describes the running sessions, the oldest first: those of a caller, or all."""
        return [
            self._info(session)
            for session, holder in self._running.items()
            if caller is None or holder.caller.name == caller.name
        ]

    def end(self, session_id: str) -> int:
        """Ends the sessions of this id. Returns their number."""
        ended = [session for session in self._running if session.id == session_id]
        for session in ended:
            request_context.session_id.set(session_id)
            log.info("an operator ends the session")
            session.stop(Cancelled("an operator has ended the session"))
        return len(ended)

    async def drain(self, draining: asyncio.Event) -> None:
        """Waits until the service drains, and then lets all sessions leave."""
        await draining.wait()
        self._draining = True
        for limit in self._opening:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())
        for session in list(self._running):
            session.leave(pb.GOING_AWAY_DRAINING, Unavailable(_DRAINING), within_s=self.parts.limits.leaving_s)

    async def watch(self) -> None:
        """Ends the sessions whose time is over, and those whose clients take nothing, without end."""
        pause_s = min(_CHECK_S, self.parts.limits.reader_timeout_s / 4)
        while True:
            await self.parts.clock.sleep(pause_s)
            for session in list(self._running):
                session.check()
                self._charge(session)

    def _check_draining(self) -> None:
        if self._draining:
            raise Unavailable(_DRAINING)

    @asynccontextmanager
    async def _opening_in_time(self) -> AsyncIterator[asyncio.Timeout]:
        """Ends its block, what comes before a session runs, when the configuration does not come or the service drains.

        Reschedule it when the configuration is there. Raises DeadlineExceeded or Unavailable.
        """
        limit_s = self.parts.limits.idle_timeout_s
        try:
            async with asyncio.timeout(limit_s or None) as limit:
                self._opening.add(limit)
                yield limit
        except TimeoutError:
            if not limit.expired():
                raise
            self._check_draining()
            raise DeadlineExceeded(f"no configuration came for {limit_s:g} s") from None
        finally:
            self._opening.discard(limit)

    @contextmanager
    def _known(self, caller: str, session: LiveSession) -> Iterator[None]:
        metrics: CompositingMetrics = self.parts.metrics
        self._running[session] = _Holder(current.get())
        metrics.sessions.inc()
        if session.config.plan.is_resumed:
            metrics.session_resumes.inc()
        log.info("session started", extra={"caller": caller, "resumed": session.config.plan.is_resumed})
        try:
            yield
        finally:
            self._charge(session)
            del self._running[session]
            metrics.sessions.dec()
            _log_usage(caller, self._info(session))

    def _charge(self, session: LiveSession) -> None:
        """Counts the speech since the last time."""
        holder, speech_us = self._running[session], session.machine.speech_us
        if said_us := speech_us - holder.charged_us:
            holder.charged_us = speech_us
            self.quotas.spoken(holder.caller, session.switching.live.avatar.id, said_us / 1e6)

    def _info(self, session: LiveSession) -> pb.SessionInfo:
        return session.reporting.info(session.id, session.switching.live.avatar.id, self.parts.clock.now())


def _log_usage(caller: str, info: pb.SessionInfo) -> None:
    """Writes what a session that has ended used; `avatar` is the last one that it showed."""
    request_context.avatar_id.set(info.model_id)
    log.info(
        "session ended",
        extra={
            "caller": caller,
            "seconds": round(info.running_ms / 1000, 3),
            "speech_seconds": round(info.speech_ms / 1000, 3),
            "frames": info.frames,
            "late_frames": info.late_frames,
            "stalls": info.stalls,
        },
    )
