"""gRPC options of every channel to one of the services, for grpc and grpc.aio alike."""

from __future__ import annotations

PING_TIMEOUT_MS = 5_000
FIRST_RECONNECT_MS = 100
# Replicas behind a name change; the default looks the name up again after 30 s at the earliest.
LOOK_UP_AGAIN_MS = 1_000


def lasting_connection(*, keepalive_ms: int, last_reconnect_ms: int, through_proxy: bool) -> list[tuple[str, int | str]]:
    """Returns options by which a channel notices that its server is gone, and finds it again.

    It pings after `keepalive_ms` without traffic, and waits `last_reconnect_ms` at most between attempts to connect. Without
    `through_proxy` it connects directly, whatever proxy the environment names (http_proxy and its like).
    """
    return [
        # A call that gRPC would send again can wait for ever, beyond its deadline too, when the server greets a new connection
        # and takes leave in one breath, as one does that is just stopping. Both clients send again by themselves.
        ("grpc.enable_retries", 0),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),  # without it a dead peer is noticed a minute later
        ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", last_reconnect_ms),
        ("grpc.dns_min_time_between_resolutions_ms", LOOK_UP_AGAIN_MS),
        ("grpc.enable_http_proxy", int(through_proxy)),
    ]
