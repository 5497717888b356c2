"""Knows the version of the product."""

from __future__ import annotations

from functools import cache
from importlib import metadata

_DISTRIBUTION = "lipsync-serving"


@cache
def product_version() -> str:
    """Returns the installed version; "unknown" in a checkout that was not installed."""
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
