"""Keeps lasting connections to the inference service: one channel for each endpoint, used in turn.

gRPC's own `round_robin` works for a DNS name, but its resolvers take no list of named hosts, hence a channel each. gRPC's
retryPolicy is not used: it gives up on requests that outgrow its buffer, cannot move to another channel, and cannot continue in
the middle of a stream. `inference_client` does all three.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from grpc import aio

from compositing_service.upstream.numerics import KnownNumerics
from compositing_service.upstream.session_streams import Metadata, SessionStreams
from service_kit.clock import Clock
from service_kit.request_context import outgoing_metadata
from service_kit.tls import ClientTls
from shared_proto import inference_pb2, mouth_region
from shared_proto.channel_options import lasting_connection
from shared_proto.inference_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:  # the class exists for type checkers only
    from shared_proto.inference_pb2_grpc import InferenceServiceAsyncStub

InferStream: TypeAlias = "aio.UnaryStreamMultiCallable[bytes, mouth_region.MouthMessage]"


_SERVICE = f"/{inference_pb2.DESCRIPTOR.services_by_name['InferenceService'].full_name}"
_FAILING = 2
_READY = grpc.ChannelConnectivity.READY
_BROKEN = frozenset({grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN})


class Endpoint:
    """One gRPC target and its channel. Make it inside a running event loop. Without `tls` it is plaintext."""

    def __init__(
        self,
        target: str,
        *,
        max_message_bytes: int,
        clock: Clock,
        tls: ClientTls | None = None,
        credential: Callable[[], Metadata] = tuple,
    ) -> None:
        """`credential` gives what calls carry for the service to know this one."""
        self.target = target
        self._credential = credential
        self._clock = clock
        self._max_message_bytes = max_message_bytes
        self._tls = tls
        self.numerics = KnownNumerics()
        self._open()

    def _open(self) -> None:
        options = _channel_options(self._max_message_bytes)
        if self._tls is None:
            self.channel = aio.insecure_channel(self.target, options=options)
        else:
            options += self._tls.channel_options
            self.channel = aio.secure_channel(self.target, self._tls.credentials, options=options)
        self.stub: InferenceServiceAsyncStub = InferenceServiceStub(self.channel)
        self.infer_stream: InferStream = self.channel.unary_stream(
            f"{_SERVICE}/InferStream",
            request_serializer=None,  # orders come as bytes
            response_deserializer=mouth_region.decode,
        )
        # Both as bytes: what an order holds is large.
        infer_sessions: Any = self.channel.stream_stream(f"{_SERVICE}/InferSessions", None, None)
        self.sessions = SessionStreams(lambda metadata: infer_sessions(metadata=(*metadata, *self._credential())), self._clock)

    def metadata(self) -> Metadata:
        """Returns the metadata of a call: ids of the request, and the credential."""
        return (*outgoing_metadata(), *self._credential())

    def rank(self) -> int:
        """Returns 0 if connected, 1 if not yet, 2 if failing. Starts connecting when idle."""
        state = self.channel.get_state(try_to_connect=True)
        return 0 if state is _READY else _FAILING if state in _BROKEN else 1

    async def reconnect(self, *, grace_s: float) -> None:
        """Opens a new channel for later calls, with the current certificates; calls under way keep the old one for `grace_s`."""
        old = self.channel
        self.sessions.retire()
        self._open()
        self.rank()
        await old.close(grace_s)


class Endpoints:
    """All endpoints. Connected ones come first, in turn."""

    def __init__(
        self,
        targets: Sequence[str],
        *,
        max_message_bytes: int,
        clock: Clock,
        tls: ClientTls | None = None,
        credential: Callable[[], Metadata] = tuple,
    ) -> None:
        self.all = tuple(
            Endpoint(target, max_message_bytes=max_message_bytes, clock=clock, tls=tls, credential=credential)
            for target in targets
        )
        self._next = 0

    def pick(self, avoid: Collection[Endpoint] = (), *, avatar_id: str = "", numerics: str = "") -> Endpoint:
        """Returns the next endpoint to use; one of `avoid` only if there is no other.

        With `numerics`, first those that are not known to compute this avatar's mouths in another way.
        """
        count = len(self.all)
        if count == 1:
            return self.all[0]
        turn = [self.all[(self._next + step) % count] for step in range(count)]
        self._next = (self._next + 1) % count

        def order(endpoint: Endpoint) -> tuple[bool, bool, bool, int]:
            rank = endpoint.rank()
            return endpoint in avoid, rank == _FAILING, endpoint.numerics.differ(avatar_id, numerics), rank

        return min(turn, key=order)

    async def reconnect(self, *, grace_s: float) -> None:
        """Opens new channels to all endpoints; returns when calls on the old ones have ended, after `grace_s` at most."""
        await asyncio.gather(*(endpoint.reconnect(grace_s=grace_s) for endpoint in self.all))

    async def close(self) -> None:
        """Ends all connections and the calls on them."""
        for endpoint in self.all:
            await endpoint.channel.close(None)


def _channel_options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    service_config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        # A draining replica reports NOT_SERVING and gets no new calls.
        "healthCheckConfig": {"serviceName": ""},
    }
    return [
        ("grpc.service_config", json.dumps(service_config)),
        # The service limits the size of a request; its answer is better than ours.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Back within half a second of the service's return, which the retries of one request can wait for; gRPC's own default is
        # two minutes. Proxies are for the way out, and both services belong to one operator.
        *lasting_connection(keepalive_ms=10_000, last_reconnect_ms=500, through_proxy=False),
        # A service that hangs without closing its connections is noticed, also without calls.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.min_reconnect_backoff_ms", 2_000),  # also the longest a connection attempt may take
        ("grpc.use_local_subchannel_pool", 1),
    ]
