"""The one error of a request of the earlier protocol."""

from __future__ import annotations


class BadMessage(Exception):
    """A message that is no request. Its text says what is wrong, for the client."""
