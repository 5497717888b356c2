"""The compositing service's way to the inference service.

A batch is one stream. When the service is lost on the way, the missing tail is asked for again, from another endpoint where there
is one: frames carry their place, and the tail of a batch is the same bytes alone. Nothing but a lost service is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from grpc import aio

from compositing_service.metrics import CompositingMetrics
from compositing_service.upstream.channels import Endpoint, Endpoints
from compositing_service.upstream.errors import InferenceFailed, as_service_error, is_lost
from compositing_service.upstream.mouth_messages import MouthMessage
from compositing_service.upstream.mouths import Mouths, read_mouths
from service_kit.deadline import Deadline
from service_kit.errors import DeadlineExceeded, ServiceError
from service_kit.request_context import outgoing_metadata
from service_kit.tls import ClientTls
from shared_proto import inference_pb2

if TYPE_CHECKING:  # the class exists for type checkers only
    from shared_proto.inference_pb2_grpc import InferenceServiceAsyncStub

_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 0.5

_log = logging.getLogger(__name__)
_Reply = TypeVar("_Reply")
MouthCall: TypeAlias = "aio.UnaryStreamCall[inference_pb2.InferBatchRequest, MouthMessage]"
RequestFrom = Callable[[int], inference_pb2.InferBatchRequest]
"""Builds the request for the frames of a batch from the given one on."""


class InferenceClient:
    """Lasting channels, retries, deadlines. Use from one event loop. Calls carry the ids of `service_kit.request_context`."""

    def __init__(
        self,
        targets: Sequence[str],
        *,
        timeout_s: float,
        max_retries: int,
        max_message_bytes: int,
        metrics: CompositingMetrics,
        tls: ClientTls | None = None,
    ) -> None:
        """`max_message_bytes`: the largest answer that is taken."""
        self._endpoints = Endpoints(targets, max_message_bytes=max_message_bytes, tls=tls)
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._metrics = metrics

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """In the order of the configuration."""
        return self._endpoints.all

    def connect(self) -> None:
        """Starts connecting everywhere, so that the first request need not wait for it."""
        for endpoint in self._endpoints.all:
            endpoint.rank()

    async def reconnect(self) -> None:
        """New connections for all further calls, with the certificates of now; calls under way finish on the old ones."""
        await self._endpoints.reconnect(grace_s=self._timeout_s)

    async def close(self) -> None:
        """Ends all connections."""
        await self._endpoints.close()

    async def mouths(self, request_from: RequestFrom, frame_count: int, *, deadline: Deadline) -> AsyncGenerator[Mouths, None]:
        """The mouth regions of a batch, in order, each group as soon as it is there.

        Close the generator (`contextlib.aclosing`): that cancels the call. Raises ServiceError. `timeout_s` limits the wait for
        each next group, retries included; `deadline` the whole.
        """
        attempts = self._attempts(deadline)
        patience = Deadline.after(self._timeout_s)
        received = 0
        while received < frame_count:
            offset = received
            endpoint = self._endpoints.pick(avoid=attempts.failed_at)
            call = endpoint.infer_stream(request_from(offset), timeout=deadline.remaining_s(), metadata=outgoing_metadata())
            try:
                while isinstance(message := await self._next(call, patience), MouthMessage):
                    mouths = read_mouths(message, offset=offset, first=received, end=frame_count)
                    received += len(mouths.pixels)
                    yield mouths
                    patience = Deadline.after(self._timeout_s)
                if received < frame_count:
                    raise InferenceFailed(f"the inference service sent {received} of {frame_count} frames")
            except aio.AioRpcError as error:
                if received < frame_count:
                    await attempts.failed(error, endpoint, until=min(patience, deadline))
            except (DeadlineExceeded, InferenceFailed) as error:
                self._metrics.upstream_errors.labels(error.code.name).inc()
                raise
            finally:
                call.cancel()

    async def _next(self, call: MouthCall, patience: Deadline) -> object:
        """The next message, or gRPC's mark of the end. Raises DeadlineExceeded when there is none for too long."""
        try:
            async with asyncio.timeout(patience.remaining_s()):
                return await call.read()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the inference service made no progress for {self._timeout_s:.3g} s; allow more time or ask for fewer frames"
            ) from None

    async def load(
        self, avatar_id: str, *, force_reload: bool, deadline: Deadline
    ) -> list[inference_pb2.LoadModelResponse | ServiceError]:
        """Loads an avatar on every endpoint; one result for each."""
        request = inference_pb2.LoadModelRequest(model_id=avatar_id, force_reload=force_reload)
        return await self._ask_all(lambda stub: stub.LoadModel, request, deadline)

    async def unload(self, avatar_id: str, *, deadline: Deadline) -> list[inference_pb2.UnloadModelResponse | ServiceError]:
        """Unloads an avatar on every endpoint; one result for each."""
        request = inference_pb2.UnloadModelRequest(model_id=avatar_id)
        return await self._ask_all(lambda stub: stub.UnloadModel, request, deadline)

    async def _ask_all(
        self,
        method: Callable[[InferenceServiceAsyncStub], aio.UnaryUnaryMultiCallable[Any, _Reply]],
        request: object,
        deadline: Deadline,
    ) -> list[_Reply | ServiceError]:
        async def ask(endpoint: Endpoint) -> _Reply | ServiceError:
            attempts = self._attempts(deadline)
            while True:
                try:
                    return await method(endpoint.stub)(request, timeout=deadline.remaining_s(), metadata=outgoing_metadata())
                except aio.AioRpcError as error:
                    try:
                        await attempts.failed(error, endpoint, until=deadline)
                    except ServiceError as refusal:
                        return refusal

        return list(await asyncio.gather(*map(ask, self._endpoints.all)))

    def _attempts(self, deadline: Deadline) -> _Attempts:
        return _Attempts(deadline, max_retries=self._max_retries, metrics=self._metrics)


class _Attempts:
    """The tries of one request: how many are left, where they failed, how long to wait before the next."""

    def __init__(self, deadline: Deadline, *, max_retries: int, metrics: CompositingMetrics) -> None:
        self.failed_at: set[Endpoint] = set()
        self._deadline = deadline
        self._given_s = deadline.remaining_s()
        self._retries = 0
        self._max_retries = max_retries
        self._metrics = metrics

    async def failed(self, error: aio.AioRpcError, endpoint: Endpoint, *, until: Deadline) -> None:
        """Waits for the time to try again, which must come before `until`, or raises the ServiceError that the caller gets."""
        self._metrics.upstream_errors.labels(error.code().name).inc()
        self.failed_at.add(endpoint)
        spread = random.uniform(0.8, 1.2)  # noqa: S311 - keeps callers from coming back all at once
        backoff_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2**self._retries) * spread
        if not is_lost(error) or self._retries >= self._max_retries or backoff_s >= until.remaining_s():
            _log.warning("inference call failed after %d retries: %s %s", self._retries, error.code().name, error.details())
            raise as_service_error(error, waited_s=self._given_s - self._deadline.remaining_s()) from None
        self._retries += 1
        self._metrics.upstream_retries.inc()
        await asyncio.sleep(backoff_s)
