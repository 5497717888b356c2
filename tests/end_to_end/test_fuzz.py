"""Any bytes and any fields: answered with a status that says whose fault it is, and the services live on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared_proto import compositing_pb2, inference_pb2, monolithic_pb2, optimized_lipsyncsrv_pb2

from .conftest import CALL_S, Duo

Code = grpc.StatusCode
# What a caller can be told about a request of its own; never UNKNOWN, never INTERNAL, and nothing is down or slow here.
HONEST = {
    Code.INVALID_ARGUMENT,
    Code.OUT_OF_RANGE,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.ABORTED,  # for another version of an avatar
    Code.RESOURCE_EXHAUSTED,
}
MODULES = {
    "compositing": compositing_pb2,
    "inference": inference_pb2,
    "monolithic": monolithic_pb2,
    "optimized_lipsyncsrv": optimized_lipsyncsrv_pb2,
}
RPCS = [
    (f"{package}.{service.name}", method.name, method.input_type.name, method.output_type.name, method.server_streaming)
    for package, module in MODULES.items()
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
CODES = {code.value[0]: code for code in Code}
FEW = settings(max_examples=25, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=150)

some_bytes = st.one_of(
    st.binary(max_size=64),
    st.integers(0, 40).map(lambda count: bytes(4 * count)),
    st.sampled_from([640, 1920, 6400]).map(lambda count: np.full(count, 0.1, "<f4").tobytes()),
    st.sampled_from([32_768, 3 * 32_768, 18 * 2048, 2_457_600, 2_457_599]).map(bytes),
    st.lists(st.floats(width=32), max_size=30).map(lambda values: np.array(values, "<f4").tobytes()),
)
some_text = st.one_of(st.sampled_from(["small", "forward", "nobody", "missing-frame", "", "..", "a/b"]), st.text(max_size=80))
some_int32 = st.one_of(
    st.integers(-3, 60),
    st.sampled_from([2**31 - 1, -(2**31), 8000, 16_000, 44_100]),
    st.integers(-(2**31), 2**31 - 1),
)
VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BYTES: some_bytes,
    FieldDescriptor.TYPE_STRING: some_text.filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text)),
    FieldDescriptor.TYPE_INT32: some_int32,
    FieldDescriptor.TYPE_INT64: st.integers(-3, 60) | st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_ENUM: st.integers(-1, 5) | some_int32,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
}
GOOD: dict[str, Any] = {
    "model_id": "small",
    "model_name": "small",
    "package_name": "small",
    "frame_count": 1,
    "audio_chunks": [bytes(2560)] * 16,
    "video_type": "rois_320",
    "batch_size": 2,
    "row_count": 3,
    "raw_audio": np.full(1280, 0.1, "<f4").tobytes(),
}


def mutations(name: str, package: str) -> st.SearchStrategy[Any]:
    """A good request in which some fields hold anything."""
    request_class = getattr(MODULES[package], name)
    fields = request_class.DESCRIPTOR.fields_by_name
    good = {key: value for key, value in GOOD.items() if key in fields}
    wild = {}
    for key, field in fields.items():
        value = VALUES[field.type] if field.type in VALUES else mutations(field.message_type.name, package)
        wild[key] = st.lists(value, max_size=5) if field.is_repeated else value
    return st.fixed_dictionaries({}, optional=wild).map(lambda some: request_class(**{**good, **some}))


def send(duo: Duo, rpc: tuple[Any, ...], message: bytes) -> tuple[Code, str]:
    """The status and the words of a call with any bytes as its message."""
    service, method, _, reply, streaming = rpc
    package = service.partition(".")[0]
    channel = duo.to_inference if package == "inference" else duo.to_compositing
    decode = getattr(MODULES[package], reply).FromString
    make: Callable[..., Any] = channel.unary_stream if streaming else channel.unary_unary
    call = make(f"/{service}/{method}", response_deserializer=decode)
    try:
        answer = call(message, timeout=CALL_S)
        for each in answer if streaming else ():
            for part in getattr(each, "replies", ()):  # to orders of sessions, each of which has a status
                if part.HasField("failure") and (code := CODES[part.failure.code]) is not Code.DEADLINE_EXCEEDED:
                    return code, part.failure.message
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return Code.OK, "well"


def still_serves(duo: Duo) -> None:
    request = compositing_pb2.CompositeBatchRequest(model_id="small", batch_size=2, raw_audio=GOOD["raw_audio"])
    assert len(duo.pictures.InferBatchComposite(request, timeout=CALL_S).composited_frames) == 2


def fuzz(duo: Duo, rpc: tuple[Any, ...], message: bytes) -> None:
    code, words = send(duo, rpc, message)
    assert code in HONEST | {Code.OK}
    assert words
    assert "Traceback" not in words


@pytest.fixture
def services(request: pytest.FixtureRequest, rpc: tuple[Any, ...]) -> Duo:
    """The two services, or the one process that serves the earlier servers' clients too."""
    found: Duo = request.getfixturevalue("duo" if rpc[0].startswith(("compositing", "inference")) else "solo")
    return found


each_rpc = pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: f"{rpc[0].partition('.')[0]}-{rpc[1]}")


@each_rpc
def test_any_bytes(services: Duo, rpc: tuple[Any, ...]) -> None:
    @FEW
    @example(b"\xff" * 40)
    @example(b"\x0a\xff\xff\xff\xff\x0f")
    @example(b"\x0a\x02\xc3\x28")  # a text that is not UTF-8
    @given(st.binary(max_size=200))
    def run(message: bytes) -> None:
        fuzz(services, rpc, message)

    run()
    still_serves(services)


def is_flat(rpc: tuple[Any, ...]) -> bool:
    """No messages within its messages: sessions have tests of their own for those."""
    fields = getattr(MODULES[rpc[0].partition(".")[0]], rpc[2]).DESCRIPTOR.fields
    return all(field.type in VALUES for field in fields)


@pytest.mark.parametrize("rpc", [*filter(is_flat, RPCS)], ids=lambda rpc: f"{rpc[0].partition('.')[0]}-{rpc[1]}")
def test_any_fields(services: Duo, rpc: tuple[Any, ...]) -> None:
    service, _, request, _, _ = rpc

    @FEW
    @given(mutations(request, service.partition(".")[0]))
    def run(message: Any) -> None:
        fuzz(services, rpc, message.SerializeToString())

    run()
    still_serves(services)


@pytest.mark.slow
@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if rpc[1].startswith(("Infer", "Encode"))], ids=lambda rpc: rpc[1])
def test_any_fields_at_length(services: Duo, rpc: tuple[Any, ...]) -> None:
    service, _, request, _, _ = rpc

    @MANY
    @given(mutations(request, service.partition(".")[0]), st.data())
    def run(message: Any, data: st.DataObject) -> None:
        encoded = bytearray(message.SerializeToString())
        for _ in range(data.draw(st.integers(0, 2))):  # and now and then a byte of the message itself
            if encoded:
                encoded[data.draw(st.integers(0, min(len(encoded), 200) - 1))] = data.draw(st.integers(0, 255))
        fuzz(services, rpc, bytes(encoded))

    run()
    still_serves(services)
