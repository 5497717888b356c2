"""The settings of the pictures that the HTTP API gives."""

from __future__ import annotations

from pydantic import Field

from service_kit.sections import Section


class PicturesSection(Section):
    """Stills and moving pictures of the HTTP API."""

    list_seconds: float = Field(default=2.0, ge=0, le=3600)
    """The list of avatars is asked for anew after so long."""

    still_seconds: float = Field(default=300.0, ge=0, le=86_400)
    """A still is made anew after so long, and browsers may keep it for so long."""

    still_cache_mb: int = Field(default=64, ge=1, le=100_000)
    """Memory for stills, in MiB."""

    max_still_width: int = Field(default=1920, ge=16, le=16_384)
    """The largest width that may be asked for, in pixels. A still is never larger than the avatar's pictures."""

    max_avatars_at_rest: int = Field(default=32, ge=0, le=10_000)
    """Limit of avatars that are shown at rest at the same time, each by a session of its own; more are refused with 429."""

    stalled_viewer_seconds: float = Field(default=30.0, gt=0, le=3600)
    """Cuts off a viewer of moving pictures who takes nothing for so long."""
