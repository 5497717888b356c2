"""How a channel to the compositing service is set up: retries, keepalive, reconnecting and balancing."""

from __future__ import annotations

import json
from ipaddress import ip_address

# Load, unload and compositing are all safe to repeat: a batch depends on its request alone.
RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    # CANCELLED that the caller did not ask for is a proxy whose server died while it answered.
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
# A client whose calls mostly fail stops repeating them after some fifty failures, and begins again as calls succeed.
RETRY_THROTTLING = {"maxTokens": 100, "tokenRatio": 0.5}

# Above the 10 s that servers allow as the shortest time between pings, with room for clocks and delays.
KEEPALIVE_MS = 15_000
PING_TIMEOUT_MS = 5_000
FIRST_RECONNECT_MS = 100
LAST_RECONNECT_MS = 2_000
# Replicas behind a name change; the default looks the name up again after 30 s at the earliest.
LOOK_UP_AGAIN_MS = 1_000


def channel_options(target: str, *, max_message_mb: int) -> list[tuple[str, int | str]]:
    """Options of a channel to `target`, for grpc and grpc.aio alike."""
    max_message_bytes = max_message_mb << 20
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.enable_retries", 1),
        # Calls larger than this are not repeated, whatever the policy says; the default is 256 KiB.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        ("grpc.service_config", json.dumps(service_config(target))),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", FIRST_RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", LAST_RECONNECT_MS),
        ("grpc.dns_min_time_between_resolutions_ms", LOOK_UP_AGAIN_MS),
    ]
    if is_loopback(target):
        # A proxy from the environment cannot reach this machine's loopback.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def service_config(target: str) -> dict[str, object]:
    """The gRPC service config: retries always; for targets that name several servers, round robin over the healthy ones."""
    config: dict[str, object] = {
        "methodConfig": [{"name": [{"service": "compositing.CompositingService"}], "retryPolicy": RETRY_POLICY}],
        "retryThrottling": RETRY_THROTTLING,
    }
    if target.startswith(("dns:", "ipv4:", "ipv6:")):
        config["loadBalancingConfig"] = [{"round_robin": {}}]
        config["healthCheckConfig"] = {"serviceName": ""}
    return config


def is_loopback(target: str) -> bool:
    """Whether `target` is host:port with a host that never leaves this machine."""
    host = target.rsplit("/", 1)[-1].removeprefix("dns:").removeprefix("ipv4:").rsplit(":", 1)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
