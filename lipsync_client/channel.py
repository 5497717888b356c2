"""Options of a channel to the compositing service: keepalive, reconnecting and balancing."""

from __future__ import annotations

import json
from ipaddress import ip_address

from lipsync_client.tls import TlsOptions
from shared_proto.channel_options import lasting_connection

# Above the 10 s that servers allow as the shortest time between pings, with room for clocks and delays.
KEEPALIVE_MS = 15_000
LAST_RECONNECT_MS = 2_000


def channel_options(target: str, tls: TlsOptions | None = None, *, max_message_mb: int) -> list[tuple[str, int | str]]:
    """Returns the options of a channel to `target`, for grpc and grpc.aio alike."""
    max_message_bytes = max_message_mb << 20
    # A proxy from the environment cannot reach this machine's loopback.
    through_proxy = not is_loopback(target)
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Clients of one process that name the same server would share a connection, which balancers send to one replica.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", json.dumps(service_config(target))),
        *lasting_connection(keepalive_ms=KEEPALIVE_MS, last_reconnect_ms=LAST_RECONNECT_MS, through_proxy=through_proxy),
        *([("grpc.ssl_target_name_override", tls.server_name)] if tls and tls.server_name else []),
    ]


def service_config(target: str) -> dict[str, object]:
    """Returns the gRPC service config: round robin over the healthy servers of a target that names several."""
    if not target.startswith(("dns:", "ipv4:", "ipv6:")):
        return {}
    return {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}


def is_loopback(target: str) -> bool:
    """Tells if the host of `target` is this machine."""
    host = target.rsplit("/", 1)[-1].removeprefix("dns:").removeprefix("ipv4:").rsplit(":", 1)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
