"""Whose request it is, behind proxies that are trusted and others."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway_service.guard.callers import UNKNOWN, caller_address

PROXIES = tuple(map(ip_network, ("10.0.0.0/8", "fd00::/8")))


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        pytest.param("198.51.100.7", ["203.0.113.5"], "198.51.100.7", id="a stranger's word counts for nothing"),
        ("10.0.0.2", ["203.0.113.5"], "203.0.113.5"),
        pytest.param("10.0.0.2", ["1.1.1.1, 203.0.113.5"], "203.0.113.5", id="only the part that the proxy wrote"),
        pytest.param("10.0.0.2", ["1.1.1.1", "203.0.113.5, 10.1.1.1"], "203.0.113.5", id="two proxies, two headers"),
        pytest.param("10.0.0.2", ["10.3.3.3"], "10.3.3.3", id="a caller inside"),
        pytest.param("10.0.0.2", ["rubbish"], "10.0.0.2", id="rubbish"),
        pytest.param("10.0.0.2", ["203.0.113.5:4711"], "203.0.113.5", id="with a port"),
        pytest.param("10.0.0.2", ["[2001:db8::5]:4711"], "2001:db8::/64", id="IPv6 with a port"),
        ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
        pytest.param("::ffff:198.51.100.7", [], "198.51.100.7", id="IPv4 in IPv6"),
        pytest.param("::ffff:10.0.0.2", ["203.0.113.5"], "203.0.113.5", id="a proxy as IPv4 in IPv6"),
        pytest.param("fe80::1%eth0", [], "fe80::/64", id="with a zone"),
        (None, ["203.0.113.5"], UNKNOWN),
        pytest.param("10.0.0.2", [",".join(["10.0.0.3"] * 10_000)], "10.0.0.3", id="an endless chain"),
    ],
)
def test_the_caller_is_whom_trusted_proxies_name(peer: str | None, forwarded: list[str], caller: str) -> None:
    assert caller_address(peer, forwarded, PROXIES) == caller
