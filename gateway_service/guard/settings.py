"""The settings of the guard."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field

from service_kit.sections import Section

Network: TypeAlias = IPv4Network | IPv6Network

_ORIGIN = re.compile(r"https?://[a-z0-9.\-_]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?")
_HOST = re.compile(r"[a-z0-9.\-_]+|\[[0-9a-f:.]+\]")


def _origin(given: str) -> str:
    text = given.strip().lower()
    if text != "*" and not _ORIGIN.fullmatch(text):
        raise ValueError('an origin is http:// or https://, a host and perhaps :PORT, without a path; or "*"')
    return text


def _host(given: str) -> str:
    text = given.strip().lower()
    if not _HOST.fullmatch(text):
        raise ValueError("a host is a name or an address, without a port; IPv6 in brackets")
    return text


class GuardSection(Section):
    """The pages that may use the gateway, and how much one address may ask."""

    allowed_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Pages of these origins may use the gateway too, such as https://app.example.com; "*": pages from everywhere. Pages of the
    gateway's own host always may, and so may callers that are no browsers."""

    allowed_hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = ()
    """Answers only to these host names. Empty: to all. Set it where a browser can reach the gateway that must not: a page from
    elsewhere may let a name of its own point here."""

    trusted_proxies: tuple[Network, ...] = ()
    """Networks of the proxies in front, such as 10.0.0.0/8: the address of a caller is what they say in X-Forwarded-For.
    Without this, all callers behind a proxy share one address."""

    requests_per_second: float = Field(default=50.0, gt=0, le=1_000_000)
    """Rate of requests from one address (of IPv6 from one /64); more are refused with 429. Health checks do not count."""

    request_burst: int = Field(default=200, ge=1, le=1_000_000)
    """The number that may come at once, after a pause."""

    max_sockets_per_address: int = Field(default=256, ge=1, le=1_000_000)
    """Limit of WebSockets and moving pictures from one address; more are refused with 429."""

    max_connections: int = Field(default=8000, ge=1, le=1_000_000)
    """Limit of TCP connections; more are closed at once."""

    max_connections_per_address: int = Field(default=1000, ge=1, le=1_000_000)
    """Limit of those from one address. Trusted proxies have none."""

    keepalive_seconds: float = Field(default=30.0, ge=0.1, le=3600)
    """Closes a connection that brings no whole request for so long, be it new, slow or idle."""
