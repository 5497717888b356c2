"""Real HTTP, friendly and not."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service_kit.addresses import BindAddress
from service_kit.http_endpoint import HttpEndpoint
from service_kit.metrics import Metrics

LOCAL = BindAddress("127.0.0.1", 0)


class State:
    live: str | None = None
    ready: str | None = "loading"


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def endpoint(state: State, metrics: Metrics) -> Iterator[HttpEndpoint]:
    endpoint = HttpEndpoint(LOCAL, metrics.registry, live=lambda: state.live, ready=lambda: state.ready)
    yield endpoint
    endpoint.close()


def get(endpoint: HttpEndpoint, path: str, method: str = "GET", **headers: str) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.address.port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), reply.headers
    finally:
        connection.close()


def raw(endpoint: HttpEndpoint) -> socket.socket:
    return socket.create_connection(("127.0.0.1", endpoint.address.port), timeout=30)


def test_ready_and_live_follow_the_service(endpoint: HttpEndpoint, state: State) -> None:
    assert get(endpoint, "/health/ready")[:2] == (503, "loading\n")
    assert get(endpoint, "/health/live")[:2] == (200, "ok\n")
    state.ready, state.live = None, "the event loop hangs"
    assert get(endpoint, "/health/ready")[:2] == (200, "ok\n")
    status, text, headers = get(endpoint, "/health/live")
    assert (status, text) == (503, "the event loop hangs\n")
    assert headers["Server"] == "lipsync", "no versions of anything for strangers"


def test_metrics_are_what_prometheus_reads(endpoint: HttpEndpoint, metrics: Metrics) -> None:
    metrics.counter("lipsync_test_frames_total", "Frames.", ("avatar",)).labels('a"\n\\').inc(3)
    status, text, headers = get(endpoint, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    [sample] = [each for each in families["lipsync_test_frames"].samples if each.name.endswith("_total")]
    assert (sample.labels, sample.value) == ({"avatar": 'a"\n\\'}, 3)
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds"} <= set(families)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/health", 404),
        ("GET", "/metrics/x", 404),
        ("POST", "/health/ready", 405),
        ("HEAD", "/health/live", 200),
    ],
)
def test_other_requests(endpoint: HttpEndpoint, method: str, path: str, status: int) -> None:
    assert get(endpoint, path, method)[0] == status


def test_a_figure_that_cannot_be_read_does_not_leak_into_the_answer(
    endpoint: HttpEndpoint, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.gauge("lipsync_test_broken", "Raises.").set_function(lambda: 1 / 0)
    status, text, _ = get(endpoint, "/metrics")
    assert status == 500
    assert "ZeroDivision" not in text
    assert "could not be collected" in caplog.text


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n",
        b"\x00\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(300)) + b"\r\n",
        b"GET / HTTP/1.1\r\nbroken header\r\n\r\n",
        b"GET /%zz/../../etc/passwd HTTP/1.1\r\n\r\n",
        b"GET /metrics?name[]=%ff HTTP/1.1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["empty", "binary", "no-path", "version", "long-line", "many-headers", "bad-header", "path", "query", "length", "tls"],
)
def test_bad_requests_leave_it_serving(endpoint: HttpEndpoint, request_bytes: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with raw(endpoint) as connection, contextlib.suppress(OSError):  # it may have hung up already
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert get(endpoint, "/health/live")[0] == 200
    assert capsys.readouterr().err == ""


def test_slow_clients_keep_nobody_out(endpoint: HttpEndpoint) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(raw(endpoint)).sendall(b"GET /met")
        assert get(endpoint, "/health/live")[0] == 200


def test_a_client_that_sends_nothing_is_hung_up_on(metrics: Metrics) -> None:
    endpoint = HttpEndpoint(LOCAL, metrics.registry, live=lambda: None, ready=lambda: None, request_seconds=0.05)
    with raw(endpoint) as connection:
        assert connection.recv(1) == b""
    endpoint.close()


def test_a_taken_port_is_an_os_error_and_close_frees_it(endpoint: HttpEndpoint, metrics: Metrics) -> None:
    with pytest.raises(OSError, match="in use"):
        HttpEndpoint(endpoint.address, metrics.registry, live=lambda: None, ready=lambda: None)
    endpoint.close()
    HttpEndpoint(endpoint.address, metrics.registry, live=lambda: None, ready=lambda: None).close()


def test_all_interfaces_means_ipv4_too(metrics: Metrics) -> None:
    endpoint = HttpEndpoint(BindAddress("", 0), metrics.registry, live=lambda: None, ready=lambda: None)
    try:
        assert get(endpoint, "/health/live")[0] == 200
    finally:
        endpoint.close()


def test_openmetrics_and_gzip_are_answered_when_asked_for(endpoint: HttpEndpoint) -> None:
    _, text, headers = get(endpoint, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.address.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        assert b"process_open_fds" in gzip.decompress(connection.getresponse().read())
