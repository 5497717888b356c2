"""The gateway's configuration. Each key has an effect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from gateway_service.api.settings import PicturesSection
from gateway_service.guard.settings import GuardSection
from gateway_service.identity.settings import TicketsSection
from gateway_service.webrtc.settings import WebrtcSection
from service_kit.addresses import BindAddress
from service_kit.sections import ClientTlsSection, Section, ServerSection
from service_kit.service_settings import ServiceSettings

_PLACE = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):(\d{1,5})")
_TARGET = re.compile(r"(dns:///)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):(\d{1,5})")


def _check_place(text: str) -> str:
    match = _PLACE.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError(f"{text[:80]!r} is not HOST:PORT")
    return text


class GatewayServerSection(ServerSection):
    """The port for browsers and the work that it accepts."""

    port: BindAddress = BindAddress("", 8086)
    """Address for WebSocket and HTTP; ":N" means all interfaces, port 0 any free one."""

    max_running_calls: int = Field(default=10_000, ge=1, le=1_000_000)
    """Limit of sockets and HTTP requests at the same time; more are refused with 503. Health checks do not count."""

    drain_seconds: float = Field(default=0.25, ge=0, le=600)
    """After SIGTERM, the gateway serves so long while it says that it is not ready. Sessions are told to go elsewhere at once.
    Behind a load balancer, set the time that it needs to notice."""

    grace_seconds: float = Field(default=30.0, ge=0, le=3600)
    """After the drain, sessions may take so long to finish the running segment before they are cut off."""

    gateways: tuple[Annotated[str, AfterValidator(_check_place)], ...] = ()
    """All gateways behind the same balancer, HOST:PORT; a name may have many addresses. Requests for a session or a viewer over
    WebRTC that another one holds are passed on to it. Empty: each answers for its own."""


def _check_target(url: str) -> str:
    match = _TARGET.fullmatch(url.strip())
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise ValueError(f"{url[:80]!r} is not HOST:PORT and not dns:///NAME:PORT")
    return url.strip()


class CompositingConnectionSection(Section):
    """The connections to the compositing services."""

    sessions_per_connection: int = Field(default=200, ge=1, le=100_000)
    """Sessions that share a connection; further ones open another. Balancers allow 256 or 500 streams on one."""

    resume_seconds: float = Field(default=30.0, gt=0, le=3600)
    """A session whose compositing service is lost waits so long for another one; then UNAVAILABLE."""

    tls: ClientTlsSection = ClientTlsSection()


class CompositingServerSection(CompositingConnectionSection):
    """The compositing services, or the load balancer before them."""

    url: Annotated[str, AfterValidator(_check_target)] = "localhost:50052"
    """HOST:PORT; or dns:///NAME:PORT, with sessions on the name's addresses in turn."""

    api_key_file: Path | None = None
    """A file with the API key that calls carry, where the compositing services ask for one. It needs the scopes infer and read,
    and delegate where the gateway asks for keys itself. It is read again when it changes."""


class SocketsSection(Section):
    """Bounds of WebSockets."""

    first_message_seconds: float = Field(default=10.0, gt=0, le=3600)
    """Closes a socket without a first message for so long."""

    max_message_kb: int = Field(default=1024, ge=16, le=102_400)
    """The largest message of a client, in KiB; a larger one closes the socket with 1009."""

    ping_seconds: float = Field(default=20.0, ge=1, le=3600)
    """Interval of pings. A socket whose pong does not come within half of it is closed."""

    reader_timeout_seconds: float = Field(default=30.0, gt=0, le=3600)
    """Ends a session whose client takes nothing for so long, with RESOURCE_EXHAUSTED."""

    idle_seconds: float = Field(default=900.0, ge=0, le=86_400)
    """Ends a session in which nobody speaks, types or chooses for so long, with DEADLINE_EXCEEDED; 0: never."""


class SpeechSection(Section):
    """Text that the gateway speaks, with espeak-ng."""

    command: str = "espeak-ng"
    """The program, by name or path; empty: no text is spoken."""

    voice: str = Field(default="en", pattern=r"[A-Za-z0-9+_-]{1,40}")
    """The voice of texts that name none; `espeak-ng --voices` lists them."""

    max_characters: int = Field(default=2000, ge=1, le=100_000)
    """The longest text."""

    timeout_seconds: float = Field(default=10.0, gt=0, le=600)
    """A program that gives no further sound for so long is ended, and the text fails."""


class EarlierSection(Section):
    """Pages and programs of the earlier servers, and their WebSocket messages."""

    ports: tuple[BindAddress, ...] = ()
    """Further addresses for them alone, such as [":8084", ":8085"]. Port 8086 and /ws serve them too."""

    idle_seconds: float = Field(default=300.0, gt=0, le=86_400)
    """Closes a socket of theirs without a request for so long."""


class GatewaySections(Section):
    """The sections that the gateway has alone and in one process with the services."""

    sockets: SocketsSection = SocketsSection()
    earlier: EarlierSection = EarlierSection()
    speech: SpeechSection = SpeechSection()
    pictures: PicturesSection = PicturesSection()
    webrtc: WebrtcSection = WebrtcSection()
    guard: GuardSection = GuardSection()
    tickets: TicketsSection = TicketsSection()


class GatewaySettings(ServiceSettings, GatewaySections):
    """All settings of the gateway."""

    server: GatewayServerSection = GatewayServerSection()
    compositing_server: CompositingServerSection = CompositingServerSection()
