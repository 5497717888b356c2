"""Runs the LiveKit worker. Ready means: a compositing service answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from lipsync_adapters.livekit.application import WorkerApplication
from lipsync_adapters.livekit.face import NAME, WorkerFace, WorkerServer
from lipsync_adapters.livekit.room import Voicing
from lipsync_adapters.livekit.rooms import Rooms
from lipsync_adapters.livekit.settings import CompositingServerSection, LivekitSettings
from lipsync_client import AsyncClient, LipsyncError, TlsOptions
from lipsync_client.conversation import Server
from service_kit.callers.authority import authority_of
from service_kit.callers.outgoing import OutgoingKey
from service_kit.clock import Clock
from service_kit.life import run_service
from service_kit.readiness import Readiness
from service_kit.service import Host, Service, WarmUp
from service_kit.tasks import beside
from service_kit.tls import tls_problems

_CAUSE = "compositing"
_LOOK_S = 5.0


def serve(settings: LivekitSettings) -> int:
    """Runs the worker in this process until a signal stops it. Returns the exit code."""
    return run_service(
        Service(
            NAME,
            settings,
            partial(WorkerFace, settings),
            partial(_open, settings),
            problems=partial(tls_problems, settings.compositing_server.tls, key="compositing_server.tls"),
        )
    )


@asynccontextmanager
async def _open(settings: LivekitSettings, host: Host[WorkerServer]) -> AsyncIterator[WarmUp]:
    reached, section = settings.compositing_server, settings.rooms
    key = OutgoingKey(reached.api_key_file, key="compositing_server.api_key_file", clock=host.clock)
    tls = _tls_options(reached)

    def server(session_id: str) -> Server:
        return Server(
            address=reached.url,
            api_key=lambda: key.text,
            tls=tls,
            session_id=session_id,
            options={"sample_rate": section.sample_rate},
            patience_s=section.patience_seconds,
        )

    rooms = Rooms(Voicing(section.sample_rate, section.video_kbps * 1000), server, host.calls, join_s=section.join_seconds)
    host.readiness.block(_CAUSE, f"no compositing service has answered yet at {reached.url}")
    async with (
        AsyncClient(reached.url, tls=tls, api_key=lambda: key.text) as client,
        beside(_follow(client, host.readiness, host.clock)),
        beside(key.follow()),
        authority_of(settings.auth, clock=host.clock) as authority,
    ):
        host.server.application = WorkerApplication(
            rooms, section, receive_s=settings.server.receive_seconds, authority=authority, draining=host.draining
        ).build()
        try:
            yield _nothing_to_warm
        finally:
            await rooms.close()


async def _nothing_to_warm() -> None:
    """Serves at once: readiness follows the compositing service."""


async def _follow(client: AsyncClient, readiness: Readiness, clock: Clock) -> None:
    """Looks if a compositing service answers, again and again."""
    while True:
        try:
            await client.health(timeout=_LOOK_S)
            readiness.clear(_CAUSE)
        except LipsyncError as error:
            readiness.block(_CAUSE, f"no compositing service answers: {error}")
        await clock.sleep(_LOOK_S)


def _tls_options(section: CompositingServerSection) -> TlsOptions | None:
    tls = section.tls
    if not tls.is_on:
        return None
    return TlsOptions(
        ca_file=tls.ca_file, certificate_file=tls.certificate_file, key_file=tls.key_file, server_name=tls.server_name
    )
