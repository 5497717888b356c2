"""The settings of tickets."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from service_kit.sections import Section


class TicketsSection(Section):
    """Tickets for WebSockets, where callers are asked who they are."""

    secret_file: Path | None = None
    """A file with 32 bytes or more, the same for all gateways behind one balancer; null: a secret of this process alone."""

    seconds: float = Field(default=30.0, ge=1, le=300)
    """A ticket is good for so long, and once."""
