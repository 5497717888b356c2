"""An inference service that refuses or sends nonsense: what callers see."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from shared_proto import inference_pb2

from .conftest import Running, upstream_errors
from .fake_inference import Behaviour, FakeInference, refuse, region, send

Code = grpc.StatusCode


def bad_request(*fields: str) -> tuple[tuple[str, bytes], ...]:
    violations = [error_details_pb2.BadRequest.FieldViolation(field=name, description="as told") for name in fields]
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.BadRequest(field_violations=violations))
    status = status_pb2.Status(code=Code.INVALID_ARGUMENT.value[0], message="as told", details=[detail])
    return (("grpc-status-details-bin", status.SerializeToString()),)


@pytest.mark.parametrize(
    ("behaviour", "code", "words", "fields", "pushback"),
    [
        pytest.param(
            refuse(Code.INVALID_ARGUMENT, trailing=bad_request("raw_audio", "lead_in_frames")),
            Code.INVALID_ARGUMENT,
            "as told",
            {"raw_audio", "lead_in_frames"},
            None,
            id="wrong fields of the caller's",
        ),
        pytest.param(refuse(Code.INVALID_ARGUMENT), Code.INVALID_ARGUMENT, "as told", set(), None, id="wrong without details"),
        pytest.param(refuse(Code.NOT_FOUND), Code.NOT_FOUND, "as told", set(), None, id="unknown there"),
        pytest.param(refuse(Code.FAILED_PRECONDITION), Code.FAILED_PRECONDITION, "as told", set(), None, id="broken there"),
        pytest.param(refuse(Code.ABORTED), Code.ABORTED, "as told", set(), None, id="lost a race"),
        pytest.param(
            refuse(Code.RESOURCE_EXHAUSTED, trailing=(("grpc-retry-pushback-ms", "250"),)),
            Code.RESOURCE_EXHAUSTED,
            "as told",
            set(),
            "250",
            id="queue full",
        ),
        pytest.param(
            refuse(Code.RESOURCE_EXHAUSTED, trailing=(("grpc-retry-pushback-ms", "-1"),)),
            Code.RESOURCE_EXHAUSTED,
            "as told",
            set(),
            "-1",
            id="too large",
        ),
        pytest.param(
            refuse(Code.RESOURCE_EXHAUSTED, after=4), Code.RESOURCE_EXHAUSTED, "as told", set(), "-1", id="in mid-batch"
        ),
        pytest.param(refuse(Code.DEADLINE_EXCEEDED), Code.DEADLINE_EXCEEDED, "more time", set(), None, id="its own deadline"),
        pytest.param(
            refuse(Code.INVALID_ARGUMENT, trailing=bad_request("frame_indices")),
            Code.FAILED_PRECONDITION,
            "different versions",
            set(),
            None,
            id="our indices are wrong there",
        ),
        pytest.param(
            refuse(Code.OUT_OF_RANGE),
            Code.FAILED_PRECONDITION,
            "different versions",
            set(),
            None,
            id="an index beyond its avatar",
        ),
        pytest.param(refuse(Code.INTERNAL, "/secret/path"), Code.INTERNAL, "inference service failed", set(), None, id="its bug"),
        pytest.param(refuse(Code.UNKNOWN, "/secret/path"), Code.INTERNAL, "inference service failed", set(), None, id="unknown"),
        pytest.param(refuse(Code.UNIMPLEMENTED), Code.INTERNAL, "inference service failed", set(), None, id="another server"),
    ],
)
async def test_refusals_of_the_inference_service(
    service: Running,
    inference: FakeInference,
    behaviour: Behaviour,
    code: Code,
    words: str,
    fields: set[str],
    pushback: str | None,
) -> None:
    inference.script.append(behaviour)
    refusal = await service.refusal(service.composite())
    assert (refusal.code, set(refusal.fields), refusal.pushback) == (code, fields, pushback)
    assert words in refusal.message
    assert "secret" not in refusal.message
    assert len(inference.calls) == 1
    assert (await service.composite()).success


def shortened(request: inference_pb2.InferBatchRequest) -> inference_pb2.MouthRegion:
    message = region(request, 0, 4)
    message.data = message.data[:-1]
    return message


def as_floats(request: inference_pb2.InferBatchRequest) -> inference_pb2.MouthRegion:
    message = region(request, 0, 1)
    message.mouth_format = inference_pb2.FLOAT32_BGR
    return message


def sized(widths: list[int], heights: list[int]) -> Behaviour:
    """A first message whose pixels are of these sizes."""
    pixels = sum(max(0, width) * height * 3 for width, height in zip(widths, heights, strict=False))

    def message(request: inference_pb2.InferBatchRequest) -> inference_pb2.MouthRegion:
        made = region(request, 0, 2)
        made.data = bytes(pixels)
        made.widths.extend(widths)
        made.heights.extend(heights)
        return made

    return send(message)


def empty(request: inference_pb2.InferBatchRequest) -> inference_pb2.MouthRegion:
    return inference_pb2.MouthRegion(mouth_format=inference_pb2.UINT8_BGR)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(send(), id="nothing"),
        pytest.param(send(lambda sent: region(sent, 0, 4)), id="two frames too few"),
        pytest.param(send(lambda sent: region(sent, 4, 2), lambda sent: region(sent, 0, 4)), id="out of order"),
        pytest.param(send(lambda sent: region(sent, 0, 4), lambda sent: region(sent, 0, 4)), id="the same again"),
        pytest.param(send(lambda sent: region(sent, 0, 6), lambda sent: region(sent, 5, 1)), id="more than asked for"),
        pytest.param(send(shortened), id="a byte short"),
        pytest.param(send(as_floats), id="another format"),
        pytest.param(send(empty), id="an empty group"),
        pytest.param(sized([100], [100]), id="one size for two mouths"),
        pytest.param(sized([100, 100], [100]), id="a height too few"),
        pytest.param(sized([100, 0], [100, 100]), id="a mouth without pixels"),
        pytest.param(sized([100, -100], [100, 100]), id="a negative width"),
    ],
)
async def test_nonsense_from_the_inference_service(service: Running, inference: FakeInference, behaviour: Behaviour) -> None:
    inference.script.append(behaviour)
    refusal = await service.refusal(service.composite(batch_size=6))
    assert refusal.code is Code.INTERNAL
    assert "inference service" in refusal.message
    assert upstream_errors(service, Code.INTERNAL) == 1
    assert (await service.composite()).success
