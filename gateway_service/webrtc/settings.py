"""The settings of WebRTC."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from service_kit.sections import Section

_STUN = re.compile(r"stun:([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?")
_TURN = re.compile(r"turns?:([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?(\?transport=(udp|tcp))?")


def _check_address(text: str) -> str:
    return str(ip_address(text))


def _check_stun(url: str) -> str:
    if not _STUN.fullmatch(url):
        raise ValueError(f"{url[:80]!r} is not stun:HOST:PORT")
    return url


def _check_turn(url: str) -> str:
    if not _TURN.fullmatch(url):
        raise ValueError(f"{url[:80]!r} is not turn:HOST:PORT or turns:HOST:PORT, perhaps with ?transport=udp or tcp")
    return url


IPAddress = Annotated[str, AfterValidator(_check_address)]
StunUrl = Annotated[str, AfterValidator(_check_stun)]
TurnUrl = Annotated[str, AfterValidator(_check_turn)]


class WebrtcSection(Section):
    """Pictures and sound over WebRTC (WHEP), with H.264 and Opus. It needs the extra `webrtc`."""

    enabled: bool | Literal["auto"] = "auto"
    """true: serve it, and end the start where the extra is missing; auto: serve it where the extra is installed."""

    max_viewers: int = Field(default=100, ge=1, le=100_000)
    """Limit of viewers over WebRTC; more are refused with 503."""

    video_quality: int = Field(default=75, ge=1, le=100)
    """Quality of the pictures, as of JPEG files: with 75, those of 1280x720 have 2 Mbit/s at most; 30 more double that."""

    audio_kbps: int = Field(default=32, ge=6, le=256)
    """Bit rate of the sound, in kbit/s."""

    addresses: tuple[IPAddress, ...] = ()
    """The addresses of this machine at which viewers are served; empty: all. Loopback is for viewers on it, and always there."""

    public_addresses: tuple[IPAddress, ...] = ()
    """Addresses that reach the same UDP ports of this gateway from elsewhere, such as that of a node for its containers."""

    stun_urls: tuple[StunUrl, ...] = ()
    """STUN servers, stun:HOST:PORT. The gateway asks the first one for its public address; players are told of all."""

    turn_urls: tuple[TurnUrl, ...] = ()
    """TURN servers, turn:HOST:PORT or turns:HOST:PORT, perhaps with ?transport=tcp. Viewers may come by the first one; players
    are told of all."""

    turn_secret_file: Path | None = None
    """A file with the secret that the TURN servers share with this gateway (coturn: static-auth-secret)."""

    turn_seconds: float = Field(default=3600.0, ge=60, le=86_400)
    """Passwords for TURN, made from the secret, are good for so long."""

    relay_only: bool = False
    """Viewers come by the TURN server alone."""

    connect_seconds: float = Field(default=15.0, ge=1, le=300)
    """Ends a viewer who does not connect within so long."""

    idle_seconds: float = Field(default=30.0, ge=5, le=3600)
    """Ends a viewer who is sent packets and reports of none for so long. One whose connection is lost ends by itself."""

    @model_validator(mode="after")
    def _has_what_turn_needs(self) -> Self:
        if self.turn_urls and not self.turn_secret_file:
            raise ValueError("turn_urls: needs turn_secret_file")
        if self.relay_only and not self.turn_urls:
            raise ValueError("relay_only: needs turn_urls")
        return self
