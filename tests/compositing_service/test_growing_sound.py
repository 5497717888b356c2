"""Orders of live sessions at an inference service that is too old for them, is lost on the way, or sends nonsense."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from compositing_service.metrics import CompositingMetrics
from compositing_service.mouth_source import GrowingSound, MouthOrder, Mouths, Sound
from compositing_service.upstream.errors import InferenceFailed
from compositing_service.upstream.inference_client import InferenceClient
from service_kit.deadline import Deadline
from service_kit.errors import Unavailable
from service_kit.metrics import Metrics
from shared_proto import inference_pb2

from .fake_inference import ROW_BYTES, Behaviour, FakeInference, Regions, fine, refuse, region
from .test_upstream_answers import bad_request

FRAMES = 6
UNKNOWN = FRAMES + 12 + 3 - 2
ROWS, SILENT = bytes(range(UNKNOWN)) * ROW_BYTES, bytes(UNKNOWN)
ORDER = MouthOrder(
    "demo", "", range(FRAMES), GrowingSound(bytes(2 * ROW_BYTES), Sound(b"\x00\x00\x80?", start_frame=3, lead_in_frames=2), 12)
)
OLD: dict[str, Behaviour] = {
    "no rows": fine,
    "a refusal": refuse(grpc.StatusCode.INVALID_ARGUMENT, trailing=bad_request("lead_in_frames")),
}


async def with_rows(request: inference_pb2.InferBatchRequest, _: Any, *, rows: bytes = ROWS, silent: bytes = SILENT) -> Regions:
    first = region(request, 0, 2)
    first.feature_rows, first.silent = rows, silent
    yield first
    if request.batch_size > 2:
        yield region(request, 2, request.batch_size - 2)


async def until_lost(request: inference_pb2.InferBatchRequest, context: Any) -> Regions:
    yield await anext(with_rows(request, context))
    await context.abort(grpc.StatusCode.UNAVAILABLE)


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[InferenceClient]:
    target = f"127.0.0.1:{inference.port}"
    source = InferenceClient([target], timeout_s=10, max_retries=2, max_frames=50, metrics=CompositingMetrics(Metrics()))
    yield source
    await source.close()


async def groups(client: InferenceClient) -> list[Mouths]:
    async with aclosing(client.mouths(ORDER, deadline=Deadline.after(30))) as mouths:
        return [group async for group in mouths]


@pytest.mark.parametrize("old", OLD.values(), ids=OLD)
async def test_an_older_service_is_passed_over(client: InferenceClient, inference: FakeInference, old: Behaviour) -> None:
    inference.script.extend([old, old, with_rows])
    first, second = await groups(client)
    assert first.rows
    assert (first.rows.data, first.rows.silent) == (ROWS, SILENT)
    assert second.rows is None
    assert len(inference.calls) == 3


@pytest.mark.parametrize("old", OLD.values(), ids=OLD)
async def test_with_older_services_alone_a_session_has_to_wait(
    client: InferenceClient, inference: FakeInference, old: Behaviour
) -> None:
    inference.script.extend([old] * 3)
    with pytest.raises(Unavailable):
        await groups(client)


async def test_rows_that_came_are_not_given_again_after_a_loss(client: InferenceClient, inference: FakeInference) -> None:
    inference.script.extend([until_lost, with_rows])
    parts = await groups(client)
    assert [part.rows is not None for part in parts] == [True, False, False]
    assert sum(len(part.pixels) for part in parts) == FRAMES
    tail = inference.calls[1].request
    assert (tail.batch_size, tail.lead_in_frames, tail.audio_start_frame) == (4, 4, 3)
    assert not tail.feature_rows


@pytest.mark.parametrize(("rows", "silent"), [(ROWS[:-1], SILENT), (ROWS, SILENT[:-1]), (ROWS + bytes(ROW_BYTES), SILENT + b"0")])
async def test_rows_that_do_not_fit(client: InferenceClient, inference: FakeInference, rows: bytes, silent: bytes) -> None:
    async def unfit(request: inference_pb2.InferBatchRequest, context: Any) -> Regions:
        async for each in with_rows(request, context, rows=rows, silent=silent):
            yield each

    inference.script.append(unfit)
    with pytest.raises(InferenceFailed):
        await groups(client)
