"""The errors of this plug-in."""


class LipsyncException(Exception):
    """The avatar cannot be used. The text says why."""
