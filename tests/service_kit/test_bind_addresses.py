from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.addresses import BindAddress


@pytest.mark.parametrize(
    ("given_form", "host", "port"),
    [
        pytest.param(":50051", "", 50051, id="old-form"),
        pytest.param("50051", "", 50051, id="port-text"),
        pytest.param(50051, "", 50051, id="port-number"),
        pytest.param(0, "", 0, id="any-port"),
        pytest.param("127.0.0.1:0", "127.0.0.1", 0, id="ipv4"),
        pytest.param("localhost:65535", "localhost", 65535, id="name"),
        pytest.param("inference_1.net:80", "inference_1.net", 80, id="container-name"),
        pytest.param("[::1]:0", "::1", 0, id="ipv6"),
        pytest.param("[0:0:0:0:0:0:0:1]:7", "::1", 7, id="ipv6-long"),
        pytest.param("0.0.0.0:1", "", 1, id="all-ipv4"),
        pytest.param("[::]:1", "", 1, id="all-ipv6"),
        pytest.param("*:1", "", 1, id="star"),
        pytest.param("  :8080 ", "", 8080, id="spaces"),
    ],
)
def test_accepted_forms(given_form: object, host: str, port: int) -> None:
    assert BindAddress.parse(given_form) == BindAddress(host, port)


@pytest.mark.parametrize(
    "given_form",
    [
        *["", ":", "x", "host:", ":x", ":-1", ":65536", ":999999999999", "::1:50051", "[::1]", "[x]:1", "a b:1", "http://a:1"],
        *["a/b:1", "é:1", ":٣", ":1_0", None, True, 1.5, [1], {}, -1, 65536],
    ],
    ids=repr,
)
def test_refused_forms_say_what_is_accepted(given_form: object) -> None:
    with pytest.raises(ValueError, match=r"accepted: .*PORT"):
        BindAddress.parse(given_form)


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = BindAddress.parse(text)
    except ValueError:
        return
    assert 0 <= address.port <= 65535
    assert BindAddress.parse(str(address)) == address


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address_survives_the_way_to_text_and_back(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    text = f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
    address = BindAddress.parse(text)
    assert address == BindAddress.parse(str(address))
    assert address.is_wildcard == ip.is_unspecified
    if not address.is_wildcard:
        assert ipaddress.ip_address(address.host) == ip


def test_what_a_client_on_this_machine_connects_to() -> None:
    assert BindAddress("", 1).reachable == "127.0.0.1:1"
    assert BindAddress("::1", 1).reachable == "[::1]:1"
