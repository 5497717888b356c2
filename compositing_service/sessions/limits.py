"""The bounds of a session that the configuration sets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Times in seconds."""

    max_buffered_s: float
    """Sound received and not shown, beyond which no more is read."""
    idle_timeout_s: float
    """Without a message while there is nothing to show; 0: no limit."""
    max_session_s: float
    """0: no limit."""
    reader_timeout_s: float
    """The longest that a client may take nothing."""
    patience_s: float
    """The longest that the inference service may be away."""
    leaving_s: float
    """From GoingAway to the end."""
