"""Reads the addresses of the inference service in `inference_server.url` as gRPC targets."""

from __future__ import annotations

import re

_HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>\d{1,5})")
_DNS = re.compile(r"dns://[A-Za-z0-9.:_-]*/(?P<address>.+)")


def parse_endpoints(url: str) -> tuple[str, ...]:
    """Returns the gRPC targets of a URL: one host:port, several separated by commas, or one dns:///name:port.

    Raises ValueError with a sentence that names the part that does not fit.
    """
    if match := _DNS.fullmatch(url.strip()):
        _check_address(match["address"])
        return (url.strip(),)
    parts = [part.strip() for part in url.split(",")]
    for part in parts:
        _check_address(part)
    if len(set(parts)) < len(parts):
        raise ValueError(f"{url!r} names the same endpoint twice")
    return tuple(parts)


def _check_address(text: str) -> None:
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError(f"{text[:80]!r} is not HOST:PORT; give one HOST:PORT, several separated by commas, or dns:///NAME:PORT")
