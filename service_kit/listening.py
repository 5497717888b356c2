"""Opening the ports of a service: gRPC's options, and errors that say in one sentence what to do."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import grpc.aio

from service_kit.addresses import MAX_PORT, BindAddress
from service_kit.sections import ServerSection

METRICS_PORT_OFFSET = 3000
# A message of exactly the configured size of payload carries some fields besides.
MESSAGE_SLACK_BYTES = 8 << 10
# gRPC takes C's ints; as milliseconds 24 days.
MAX_OPTION = 2**31 - 1
# Connections that do not come to a first request are closed; gRPC's own default keeps them for two minutes.
HANDSHAKE_SECONDS = 10.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


class StartError(Exception):
    """The service cannot start, in one sentence that says what to do."""


def message_limit_bytes(section: ServerSection) -> int:
    """What gRPC lets through, either way."""
    return min((section.max_message_size_mb << 20) + MESSAGE_SLACK_BYTES, MAX_OPTION)


def server_options(section: ServerSection) -> list[tuple[str, int]]:
    """gRPC's options for a server."""
    timeout_ms = _ms(section.keepalive_timeout_seconds)
    options = [
        # On by default: a second server on the same port would start silently and take half of the connections.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", message_limit_bytes(section)),
        ("grpc.max_send_message_length", message_limit_bytes(section)),
        ("grpc.keepalive_time_ms", _ms(section.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # Without it a dead peer is noticed a minute later than the timeout says.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(section.min_ping_interval_seconds)),
        ("grpc.server_handshake_timeout_ms", _ms(HANDSHAKE_SECONDS)),
    ]
    if section.max_connection_age_seconds is not None:
        options.append(("grpc.max_connection_age_ms", _ms(section.max_connection_age_seconds)))
        options.append(("grpc.max_connection_age_grace_ms", _ms(section.max_connection_age_grace_seconds)))
    return options


def open_grpc_port(
    server: grpc.aio.Server, address: BindAddress, credentials: grpc.ServerCredentials | None = None
) -> BindAddress:
    """Binds the server, with TLS where there are credentials, and returns the address with the port that it got."""
    _check_free(address)
    place = str(BindAddress(address.host or "::", address.port))
    try:
        port = server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
    except RuntimeError:
        raise StartError(f"server.port: cannot listen on {address}; choose another address") from None
    return BindAddress(address.host, port)


def open_metrics_port(wanted: BindAddress | None, grpc_address: BindAddress, open_at: Callable[[BindAddress], T]) -> T:
    """`open_at` the wanted address; or, where none was given, next to gRPC's, or at any free port."""
    if wanted is not None:
        try:
            return open_at(wanted)
        except OSError as error:
            raise StartError(_sentence("metrics.port", wanted, error)) from None
    usual = BindAddress(grpc_address.host, grpc_address.port + METRICS_PORT_OFFSET)
    if usual.port <= MAX_PORT:
        try:
            return open_at(usual)
        except OSError as error:
            _log.warning("%s; metrics and health take any free port instead", _sentence("metrics.port", usual, error))
    return open_at(BindAddress(grpc_address.host, 0))


def _check_free(address: BindAddress) -> None:
    """gRPC itself would say the same in several lines on stderr, without the reason in the exception."""
    try:
        for family, place in _places(address):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.is_wildcard else 1)
                probe.bind(place)
    except OSError as error:
        raise StartError(_sentence("server.port", address, error)) from None


def _places(address: BindAddress) -> list[tuple[socket.AddressFamily, Any]]:
    """What gRPC will bind."""
    if not address.is_wildcard:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [(family, place) for family, _, _, _, place in found]
    return [(socket.AF_INET6, ("::", address.port))] if socket.has_dualstack_ipv6() else [(socket.AF_INET, ("", address.port))]


def _sentence(key: str, address: BindAddress, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{key}: {address} is in use by another program; stop that or choose another port (--set {key}=...)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{key}: {address} is no address of this machine; choose another one (--set {key}=...)"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{key}: this user may not listen on {address}; choose a port above 1023 (--set {key}=...)"
    if isinstance(error, socket.gaierror):
        return f"{key}: the host name of {address} is not known here; choose another one (--set {key}=...)"
    return f"{key}: cannot listen on {address}: {error.strerror}"


def _ms(seconds: float) -> int:
    return min(round(seconds * 1000), MAX_OPTION)
