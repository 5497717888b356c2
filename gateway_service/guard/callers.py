"""Tells callers apart by their address, also behind proxies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from gateway_service.guard.settings import Network

# One subscriber has a whole network of this size.
_IPV6_SUBSCRIBER_BITS = 64
# No chain of proxies is longer.
_MOST_HOPS = 16

UNKNOWN = "unknown"


def caller_address(peer: str | None, forwarded: Sequence[str], proxies: Sequence[Network]) -> str:
    """Returns the address that limits count by: an IPv4 address, or the /64 of an IPv6 one.

    `peer` is the other end of the connection, `forwarded` the values of X-Forwarded-For. They are believed only as far as they
    were written by `proxies`: read from the right, up to the first address that is none of them.
    """
    address = _parsed(peer)
    if address is None:
        return UNKNOWN
    hops = [hop for value in forwarded for hop in value.split(",")][-_MOST_HOPS:]
    while hops and is_among(address, proxies):
        before = _parsed(hops.pop())
        if before is None:
            break
        address = before
    return _subscriber(address)


def is_among(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    """Tells if an address is in one of the networks."""
    return any(address.version == network.version and address in network for network in networks)


def is_proxy(peer: str | None, proxies: Sequence[Network]) -> bool:
    """Tells if the other end of a connection is a trusted proxy."""
    address = _parsed(peer)
    return address is not None and is_among(address, proxies)


def _parsed(text: str | None) -> IPv4Address | IPv6Address | None:
    """Reads an address, perhaps with brackets, a port or a zone."""
    if text is None:
        return None
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _subscriber(address: IPv4Address | IPv6Address) -> str:
    if address.version == 4:
        return str(address)
    network = int(address) >> (128 - _IPV6_SUBSCRIBER_BITS) << (128 - _IPV6_SUBSCRIBER_BITS)
    return f"{IPv6Address(network)}/{_IPV6_SUBSCRIBER_BITS}"
