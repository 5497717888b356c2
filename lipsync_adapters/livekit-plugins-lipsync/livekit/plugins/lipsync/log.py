"""The log of this plug-in."""

import logging

logger = logging.getLogger("livekit.plugins.lipsync")
