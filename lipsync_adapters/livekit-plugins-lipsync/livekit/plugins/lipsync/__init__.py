"""Avatars of a self-hosted lip-sync server for LiveKit Agents."""

from livekit.agents import Plugin

from .avatar import AvatarSession
from .errors import LipsyncException
from .log import logger
from .version import __version__

__all__ = ["AvatarSession", "LipsyncException", "__version__"]


class LipsyncPlugin(Plugin):
    """Registers itself, so that its log is shown."""

    def __init__(self) -> None:
        super().__init__(__name__, __version__, __package__, logger)


Plugin.register_plugin(LipsyncPlugin())
