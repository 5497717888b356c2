"""The version of this plug-in."""

__version__ = "0.1.0"
