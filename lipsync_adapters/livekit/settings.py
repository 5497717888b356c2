"""The configuration of the LiveKit worker. Each key has an effect."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from service_kit.addresses import BindAddress
from service_kit.sections import ClientTlsSection, Section, ServerSection
from service_kit.service_settings import ServiceSettings


class WorkerServerSection(ServerSection):
    """The port for agents, and the rooms at the same time."""

    port: BindAddress = BindAddress("", 8089)
    """Address for HTTP; ":N" means all interfaces, port 0 any free one."""

    max_running_calls: int = Field(default=20, ge=1, le=10_000)
    """Limit of rooms at the same time; more are refused with 503. In each, pictures are decoded, and encoded for LiveKit."""

    receive_seconds: float = Field(default=30.0, ge=0.1, le=3600)
    """Closes a connection that brings no whole request for so long, be it new, slow or idle. A body that is not whole by then is
    answered with 408."""

    grace_seconds: float = Field(default=600.0, ge=0, le=86_400)
    """After the drain, rooms go on for so long, until their agents leave, before they are cut off."""


class CompositingServerSection(Section):
    """The compositing services, or the load balancer before them."""

    url: str = "localhost:50052"
    """HOST:PORT; or dns:///NAME:PORT, with sessions on the name's addresses in turn."""

    api_key_file: Path | None = None
    """A file with the API key that calls carry, where the compositing services ask for one. It needs the scopes infer and read.
    It is read again when it changes."""

    tls: ClientTlsSection = ClientTlsSection()


class RoomsSection(Section):
    """Avatars in rooms."""

    avatar: str = "demo"
    """The avatar where the agent names none."""

    sample_rate: int = Field(default=24_000, ge=8000, le=48_000)
    """Rate of the avatar's sound, Hz; other sound is resampled."""

    video_kbps: int = Field(default=2000, ge=100, le=20_000)
    """The picture takes at most so much, in kbit/s."""

    patience_seconds: float = Field(default=5.0, gt=0, le=300)
    """After so long without a picture the agent's voice goes on alone."""

    join_seconds: float = Field(default=15.0, gt=0, le=300)
    """An avatar that has not joined after so long is given up, with 504."""

    allowed_urls: tuple[str, ...] = ()
    """The LiveKit servers that agents may name, such as ["wss://livekit.example.com"]; empty: any. Set it where agents are not
    trusted: the worker connects to what they name."""


class LivekitSettings(ServiceSettings):
    """All settings of the LiveKit worker."""

    server: WorkerServerSection = WorkerServerSection()
    compositing_server: CompositingServerSection = CompositingServerSection()
    rooms: RoomsSection = RoomsSection()
