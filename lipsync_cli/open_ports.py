"""Finds ports of this machine at which one of our services answers everybody, also other machines, for `lipsync doctor`."""

from __future__ import annotations

import urllib.request
from ipaddress import IPv6Address, ip_address

import psutil

ANSWER_S = 2.0
OPEN = "answers whoever reaches this machine, without a key"
LISTS = {50051: "/inference.InferenceService/ListModels", 50052: "/compositing.CompositingService/ListModels"}
"""The method that lists avatars, of the two services that others call, by port."""
_GATEWAY = 8086


def open_to_all(port: int) -> str:
    """Returns a sentence about a port that other machines reach and that asks nobody for a key; else nothing."""
    if not _is_reachable(port):
        return ""
    if port == _GATEWAY:
        return OPEN if _gateway_answers(port) else ""
    return OPEN if port in LISTS and _service_answers(port, LISTS[port]) else ""


def _is_reachable(port: int) -> bool:
    """Tells if something listens there for more than this machine."""
    try:
        listening = [each.laddr for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN and each.laddr]
    except psutil.AccessDenied:
        return False
    return any(place.port == port and not _is_loopback(place.ip) for place in listening)


def _is_loopback(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _gateway_answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/avatars", timeout=ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


def _service_answers(port: int, method: str) -> bool:
    try:
        import grpc
    except ImportError:  # the doctor tells of that
        return False
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method, None, None)(b"", timeout=ANSWER_S)
        except grpc.RpcError:
            return False
    return True
