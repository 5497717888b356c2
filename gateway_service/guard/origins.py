"""Decides if a page may use the gateway, by the Origin and Host headers that its browser sends."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def is_allowed(origin: str | None, host: str | None, allowed: Collection[str]) -> bool:
    """Tells if a request may change something or open a WebSocket.

    Without an Origin no page asks: browsers always send it with such requests. The origin of the host that was called is
    allowed, by whatever scheme, because a proxy may speak TLS for the gateway. "null", of files and sandboxes, is not.
    """
    return origin is None or is_listed(origin, allowed) or _is_same(origin, host)


def is_listed(origin: str | None, allowed: Collection[str]) -> bool:
    """Tells if the settings name this origin."""
    return origin is not None and ("*" in allowed or origin.lower() in allowed)


def is_known_host(host: str | None, allowed: Collection[str]) -> bool:
    """Tells if the gateway may be called by this Host header. None are named: by any."""
    if not allowed:
        return True
    place = _place("http", host or "")
    return place is not None and place[0] in {name.strip("[]") for name in allowed}


def _is_same(origin: str, host: str | None) -> bool:
    scheme, separator, rest = origin.partition("://")
    if not separator or scheme.lower() not in _PORTS or not host:
        return False
    place = _place(scheme.lower(), rest)
    return place is not None and place == _place(scheme.lower(), host)


def _place(scheme: str, authority: str) -> tuple[str, int] | None:
    """Returns host and port; None for what is no authority."""
    if any(character in authority for character in "/?#@\\ ,"):
        return None
    try:
        parts = urlsplit(f"//{authority}")
        port = parts.port
    except ValueError:
        return None
    return (parts.hostname, port or _PORTS[scheme]) if parts.hostname else None
