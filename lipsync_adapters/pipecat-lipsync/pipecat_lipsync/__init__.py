"""A talking person for Pipecat bots, by way of a lip-sync server."""

from __future__ import annotations

from pipecat_lipsync.video import LipsyncUpdateSettingsFrame, LipsyncVideoService, LipsyncVideoSettings

__all__ = ["LipsyncUpdateSettingsFrame", "LipsyncVideoService", "LipsyncVideoSettings"]
