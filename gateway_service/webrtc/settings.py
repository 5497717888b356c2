"""The settings of WebRTC."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service_kit.sections import Section


class WebrtcSection(Section):
    """Pictures and sound over WebRTC (WHEP), with H.264 and Opus. It needs the extra `webrtc`."""

    enabled: bool | Literal["auto"] = "auto"
    """true: serve it, and end the start where the extra is missing; auto: serve it where the extra is installed."""

    max_viewers: int = Field(default=100, ge=1, le=100_000)
    """Limit of viewers over WebRTC; more are refused with 503."""

    video_kbps: int = Field(default=2000, ge=100, le=50_000)
    """Bit rate of the pictures, in kbit/s. All viewers of a session share one encoding."""

    audio_kbps: int = Field(default=32, ge=6, le=256)
    """Bit rate of the sound, in kbit/s."""

    connect_seconds: float = Field(default=15.0, ge=1, le=300)
    """Ends a viewer who does not connect within so long."""

    idle_seconds: float = Field(default=30.0, ge=5, le=3600)
    """Ends a viewer who is sent packets and reports of none for so long. One whose connection is lost ends by itself."""
