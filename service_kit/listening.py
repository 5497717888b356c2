"""Opens the ports of a service, with errors that say in one sentence what to do."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from service_kit.addresses import MAX_PORT, BindAddress

METRICS_PORT_OFFSET = 3000
T = TypeVar("T")

log = logging.getLogger(__name__)

_PROBLEMS = {
    errno.EADDRINUSE: "is in use by another program; stop that or choose another port",
    errno.EADDRNOTAVAIL: "is no address of this machine; choose another one",
}


class Port(NamedTuple):
    """An address to listen on."""

    name: str  # in the ready line
    key: str  # of the setting that chose it, for messages
    address: BindAddress


class StartError(Exception):
    """The service cannot start. One sentence says what to do."""


def open_metrics_port(wanted: BindAddress | None, own_address: BindAddress, open_at: Callable[[BindAddress], T]) -> T:
    """Calls `open_at` with the wanted address. Without one, with the usual one next to the service's, else with any free port.

    A service on all interfaces has it on loopback: what it tells is for its operators.
    """
    host = "127.0.0.1" if own_address.is_wildcard else own_address.host
    usual = BindAddress(host, own_address.port + METRICS_PORT_OFFSET)
    if wanted or usual.port <= MAX_PORT:
        try:
            return open_at(wanted or usual)
        except OSError as error:
            problem = _sentence("metrics.port", wanted or usual, error)
            if wanted:
                raise StartError(problem) from None
            log.warning("%s; metrics and health take any free port instead", problem)
    return open_at(BindAddress(host, 0))


def check_free(address: BindAddress, *, key: str) -> None:
    """Raises StartError when gRPC could not listen there. gRPC itself writes the reason to stderr, not into its exception.

    `key`: the setting that chose the address, for the message.
    """
    try:
        for family, place in places(address):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.is_wildcard else 1)
                probe.bind(place)
    except OSError as error:
        raise StartError(_sentence(key, address, error)) from None


def places(address: BindAddress) -> list[tuple[socket.AddressFamily, Any]]:
    """Returns the sockets to bind for an address, as gRPC does it. Raises OSError for an unknown name."""
    if not address.is_wildcard:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [(family, place) for family, _, _, _, place in found]
    return [(socket.AF_INET6, ("::", address.port))] if socket.has_dualstack_ipv6() else [(socket.AF_INET, ("", address.port))]


def _sentence(key: str, address: BindAddress, error: OSError) -> str:
    advice = f"(--set {key}=...)"
    if problem := _PROBLEMS.get(error.errno or 0):
        return f"{key}: {address} {problem} {advice}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{key}: this user may not listen on {address}; choose a port above 1023 {advice}"
    if isinstance(error, socket.gaierror):
        return f"{key}: the host name of {address} is not known here; choose another one {advice}"
    return f"{key}: cannot listen on {address}: {error.strerror}"
