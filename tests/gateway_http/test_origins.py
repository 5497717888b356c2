"""Pages that may use the gateway, and others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_service.guard.origins import is_allowed, is_known_host

LISTED = {"https://app.example.com"}


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "here:8086", True),
        ("http://here:8086", "here:8086", True),
        ("https://here", "here", True),
        ("https://here", "here:443", True),
        ("http://HERE", "here:80", True),
        ("http://[::1]:8086", "[::1]:8086", True),
        ("https://app.example.com", "here:8086", True),
        ("https://APP.example.com", "here:8086", True),
        ("http://app.example.com", "here:8086", False),
        ("https://app.example.com.evil.org", "here:8086", False),
        ("http://evil.org", "here:8086", False),
        ("http://here:8087", "here:8086", False),
        ("http://here", "here:8086", False),
        ("null", "here:8086", False),
        ("", "here:8086", False),
        ("", "", False),
        ("file://", "here:8086", False),
        ("http://here:8086@evil.org", "here:8086", False),
        ("http://evil.org/here:8086", "here:8086", False),
        ("http://evil.org http://here:8086", "here:8086", False),
        ("http://here:8086", "here:8086, evil.org", False),
        ("http://here:99999", "here:99999", False),
        ("http://here:8086", None, False),
    ],
)
def test_pages_of_the_same_host_and_listed_ones_may(origin: str | None, host: str | None, allowed: bool) -> None:
    assert is_allowed(origin, host, LISTED) is allowed


@given(st.text(), st.text())
def test_no_two_texts_are_the_same_place_unless_they_name_the_same_host(origin: str, host: str) -> None:
    if is_allowed(origin, host, ()):
        assert origin.partition("://")[2].lower().startswith(host.lower().rpartition(":")[0])


def test_every_origin_may_when_the_settings_say_so() -> None:
    assert is_allowed("http://evil.org", "here:8086", {"*"})
    assert is_allowed("null", "here:8086", {"*"})


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("here", True),
        ("HERE:8086", True),
        ("[::1]:8086", True),
        ("evil.org", False),
        ("", False),
        (None, False),
        ("here@x", False),
    ],
)
def test_only_named_hosts_are_answered_where_some_are_named(host: str | None, known: bool) -> None:
    assert is_known_host(host, ("here", "[::1]")) is known
    assert is_known_host(host, ())
