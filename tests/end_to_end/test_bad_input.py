"""Every bad input, against running services: the status of the house's table, a sentence, and nobody else notices."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest

from shared_proto import compositing_pb2, inference_pb2

from ..violations import violations_of
from .avatars import BROKEN
from .callers import SteadyCaller
from .conftest import CALL_S, Duo

Code = grpc.StatusCode
FRAMES = 3
SAMPLES = 640 * FRAMES
WINDOW_BYTES = 8192 * 4
PICTURE_BYTES = 6 * 320 * 320 * 4


def sound(samples: int = SAMPLES, **values: float) -> bytes:
    """Quiet noise; `values` by sample number, as `at7=nan`."""
    made = (0.01 * np.random.default_rng(1).standard_normal(samples)).astype("<f4")
    for name, value in values.items():
        made[int(name.removeprefix("at"))] = value
    return made.tobytes()


def features(size: int, **values: float) -> bytes:
    return sound(size // 4 + 1, **values)[:size]


@dataclass(frozen=True)
class Bad:
    """A batch request that is wrong in `fields`; `violations` are the fields that the answer must name."""

    name: str
    code: Code
    fields: Callable[[], dict[str, Any]]
    violations: tuple[str, ...] = ()
    only: str = ""  # the one service that has such a field


def invalid(name: str, violation: str, fields: Callable[[], dict[str, Any]], *, only: str = "") -> Bad:
    return Bad(name, Code.INVALID_ARGUMENT, fields, (violation,), only)


def no_sound(**fields: Any) -> dict[str, Any]:
    return {"raw_audio": b"", **fields}


TABLE = [
    Bad("unknown id", Code.NOT_FOUND, lambda: {"model_id": "nobody"}),
    invalid("empty id", "model_id", lambda: {"model_id": ""}),
    invalid("id that climbs", "model_id", lambda: {"model_id": "../x"}),
    invalid("id that climbs back", "model_id", lambda: {"model_id": "small/../small"}),
    invalid("absolute id", "model_id", lambda: {"model_id": "/etc/passwd"}),
    invalid("id with a null byte", "model_id", lambda: {"model_id": "small\0"}),
    invalid("hidden id", "model_id", lambda: {"model_id": ".small"}),
    invalid("id of 10000 characters", "model_id", lambda: {"model_id": "x" * 10_000}),
    invalid("id of 65 characters", "model_id", lambda: {"model_id": "x" * 65}),
    invalid("id not of ASCII", "model_id", lambda: {"model_id": "ädam"}),
    invalid("batch size 0", "batch_size", lambda: {"batch_size": 0}),
    invalid("batch size -1", "batch_size", lambda: {"batch_size": -1}),
    invalid("batch size 10^6", "batch_size", lambda: {"batch_size": 10**6}),
    invalid("batch size -2^31", "batch_size", lambda: {"batch_size": -(2**31)}),
    invalid("negative position", "start_frame_idx", lambda: {"start_frame_idx": -1}, only="compositing"),
    invalid("negative index", "frame_indices", lambda: {"frame_indices": [0, -1, 2]}, only="inference"),
    invalid("two indices for three frames", "frame_indices", lambda: {"frame_indices": [0, 1]}, only="inference"),
    Bad("index past the end", Code.OUT_OF_RANGE, lambda: {"frame_indices": [0, 5, 1]}, only="inference"),
    invalid("negative lead-in", "lead_in_frames", lambda: {"lead_in_frames": -1}),
    invalid("negative start of the sound", "audio_start_frame", lambda: {"audio_start_frame": -3}),
    invalid("no sound", "raw_audio", no_sound),
    invalid("sound of 3 bytes", "raw_audio", lambda: {"raw_audio": b"abc"}),
    invalid("16-bit sound of 3 bytes", "raw_audio", lambda: {"raw_audio": b"abc", "audio_encoding": 1}),
    invalid("NaN in the sound", "raw_audio", lambda: {"raw_audio": sound(at7=np.nan)}),
    invalid("infinity in the sound", "raw_audio", lambda: {"raw_audio": sound(at1900=np.inf)}),
    invalid("minus infinity in the sound", "raw_audio", lambda: {"raw_audio": sound(at0=-np.inf)}),
    invalid("10 minutes of sound", "raw_audio", lambda: {"raw_audio": bytes(600 * 16_000 * 4)}),
    invalid("10 minutes of 8 kHz 16-bit sound", "raw_audio",
            lambda: {"raw_audio": bytes(600 * 8000 * 2), "sample_rate": 8000, "audio_encoding": 1}),
    invalid("rate 7", "sample_rate", lambda: {"sample_rate": 7}),
    invalid("rate 10^9", "sample_rate", lambda: {"sample_rate": 10**9}),
    invalid("rate -16000", "sample_rate", lambda: {"sample_rate": -16_000}),
    invalid("rate 7999", "sample_rate", lambda: {"sample_rate": 7999}),
    invalid("unknown sound encoding", "audio_encoding", lambda: {"audio_encoding": 99}),
    invalid("unknown edges", "audio_edges", lambda: {"audio_edges": 7}),
    invalid("reference edges for 120 ms", "raw_audio", lambda: {"audio_edges": 1}),
    invalid("features of 1 byte", "audio_features", lambda: no_sound(audio_features=b"x")),
    invalid("features a value short", "audio_features", lambda: no_sound(audio_features=features(WINDOW_BYTES - 4))),
    invalid("two windows for three frames", "audio_features", lambda: no_sound(audio_features=features(2 * WINDOW_BYTES))),
    invalid("NaN in the features", "audio_features", lambda: no_sound(audio_features=features(WINDOW_BYTES, at9=np.nan))),
    invalid("3e38 in the features", "audio_features", lambda: no_sound(audio_features=features(WINDOW_BYTES, at9=3e38))),
    invalid("-3e38 in the rows", "feature_rows", lambda: no_sound(feature_rows=features((FRAMES + 15) * 2048, at5=-3e38))),
    invalid("a row too few", "feature_rows", lambda: no_sound(feature_rows=features((FRAMES + 14) * 2048))),
    invalid("infinity in the rows", "feature_rows",
            lambda: no_sound(feature_rows=features((FRAMES + 15) * 2048, at5=np.inf))),
    invalid("pictures of 5 bytes", "visual_frames", lambda: {"visual_frames": b"12345"}),
    invalid("two pictures for three frames", "visual_frames", lambda: {"visual_frames": bytes(2 * PICTURE_BYTES)}),
    invalid("NaN in the picture", "visual_frames", lambda: {"visual_frames": features(PICTURE_BYTES, at4=np.nan)}),
    invalid("3e38 in the picture", "visual_frames", lambda: {"visual_frames": features(PICTURE_BYTES, at4=3e38)}),
    invalid("pictures and indices", "frame_indices",
            lambda: {"visual_frames": bytes(PICTURE_BYTES), "frame_indices": [0, 1, 2]}, only="inference"),
    *[invalid(f"stored features and {field}", "stored_features",
              lambda field=field: no_sound(stored_features=True) | {field: bytes(4)})
      for field in ("raw_audio", "audio_features", "feature_rows")],
    Bad("no stored features", Code.FAILED_PRECONDITION, lambda: no_sound(stored_features=True)),
    Bad("stored features of an index past the end", Code.OUT_OF_RANGE,
        lambda: no_sound(stored_features=True, visual_frames=bytes(PICTURE_BYTES), frame_indices=[0, 5, 1]), only="inference"),
    invalid("due before now", "due_in_ms", lambda: {"due_in_ms": -1}, only="inference"),
    invalid("due in more than a minute", "due_in_ms", lambda: {"due_in_ms": 60_001}, only="inference"),
    *[invalid(f"rows in return, but {name}", field, lambda fields=fields: {"return_rows": True} | fields, only="inference")
      for name, field, fields in [
          ("a look-ahead too short", "look_ahead_frames", {"look_ahead_frames": 5}),
          ("a look-ahead too long", "look_ahead_frames", {"look_ahead_frames": 13}),
          ("a frame before the first", "lead_in_frames", {"lead_in_frames": -1}),
          ("the reference's edges", "return_rows", {"audio_edges": 1}),
          ("windows", "return_rows", {"audio_features": bytes(WINDOW_BYTES)}),
          ("stored features", "return_rows", {"stored_features": True}),
          ("a row too many", "feature_rows", {"feature_rows": bytes((FRAMES + 16) * 2048)}),
          ("half a row", "feature_rows", {"feature_rows": bytes(1024)}),
          ("no sound for what is missing", "raw_audio", {"raw_audio": b""}),
      ]],
    invalid("look-ahead without rows in return", "look_ahead_frames", lambda: {"look_ahead_frames": 8}, only="inference"),
    invalid("unknown admission", "admission", lambda: {"admission": 3}, only="inference"),
    invalid("unknown mouth format", "mouth_format", lambda: {"mouth_format": 5}, only="inference"),
    invalid("unknown mouth fit", "mouth_fit", lambda: {"mouth_format": 1, "mouth_fit": 3}, only="inference"),
    invalid("floats in the rectangle's size", "mouth_fit", lambda: {"mouth_fit": 1}, only="inference"),
    invalid("quality 101", "jpeg_quality", lambda: {"jpeg_quality": 101}, only="compositing"),
    invalid("quality -1", "jpeg_quality", lambda: {"jpeg_quality": -1}, only="compositing"),
    invalid("unknown quality preset", "quality_preset", lambda: {"quality_preset": 9}, only="compositing"),
    invalid("quality and preset", "jpeg_quality",
            lambda: {"quality_preset": 1, "jpeg_quality": 50}, only="compositing"),
    invalid("unknown output format", "output_format", lambda: {"output_format": 42}, only="compositing"),
    Bad("a message over the limit", Code.RESOURCE_EXHAUSTED, lambda: {"visual_frames": bytes(101 << 20)}),
    Bad("everything at once", Code.INVALID_ARGUMENT,
        lambda: {"model_id": "..", "batch_size": -5, "raw_audio": b"abc", "sample_rate": 7, "lead_in_frames": -1},
        ("model_id", "batch_size", "raw_audio", "sample_rate", "lead_in_frames")),
    *[Bad(f"avatar with {name}", Code.FAILED_PRECONDITION, lambda name=name: {"model_id": name}) for name in BROKEN],
]  # fmt: skip

RPCS = {
    "compositing": ("InferBatchComposite",),
    "inference": ("InferBatch", "InferStream"),
}
CASES = [
    pytest.param(rpc, bad, id=f"{rpc}-{bad.name}")
    for service, rpcs in RPCS.items()
    for rpc in rpcs
    for bad in TABLE
    if bad.only in ("", service)
]


@pytest.fixture(scope="module")
def steady(duo: Duo) -> Iterator[SteadyCaller]:
    request = compositing_pb2.CompositeBatchRequest(model_id="small", batch_size=2, raw_audio=sound(1280))
    with SteadyCaller(duo.compositing.address, request) as caller:
        yield caller
        caller.wait_for_a_call()


def refused(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def run(duo: Duo, rpc: str, fields: dict[str, Any]) -> Any:
    asked = {"model_id": "small", "batch_size": FRAMES, "raw_audio": sound(), **fields}
    if rpc == "InferBatchComposite":
        return duo.pictures.InferBatchComposite(compositing_pb2.CompositeBatchRequest(**asked), timeout=CALL_S)
    request = inference_pb2.InferBatchRequest(**asked)
    if rpc == "InferStream":
        return list(duo.mouths.InferStream(request, timeout=CALL_S))
    return duo.mouths.InferBatch(request, timeout=CALL_S)


def violated(error: grpc.RpcError) -> list[str]:
    found = violations_of(error)
    for field, problem in found:
        assert_is_a_sentence(f"{field} {problem}")
    return [field for field, _ in found]


def assert_is_a_sentence(text: str) -> None:
    """In words, short, and without anything internal."""
    assert re.search(r"\w+ \w+", text)
    assert len(text) <= 1000
    for internal in ("Traceback", 'File "', "/tmp", "object at 0x", "site-packages", "onnxruntime", "pybind11", "Errno"):
        assert internal not in text


@pytest.mark.parametrize(("rpc", "bad"), CASES)
def test_a_bad_batch(duo: Duo, steady: SteadyCaller, rpc: str, bad: Bad) -> None:
    error = refused(lambda: run(duo, rpc, bad.fields()))
    assert error.code() is bad.code, error.details()
    assert_is_a_sentence(error.details() or "")
    if bad.violations:
        assert set(violated(error)) == set(bad.violations)
    steady.wait_for_a_call()


@pytest.mark.parametrize(
    ("rpc", "fields", "code"),
    [
        (rpc, *each)
        for rpc in ("LoadModel", "UnloadModel", "GetModelStats")
        for each in (
            ({"model_id": "nobody"}, Code.NOT_FOUND),
            ({"model_id": "../x"}, Code.INVALID_ARGUMENT),
            ({"model_id": "x" * 10_000}, Code.INVALID_ARGUMENT),
            ({"model_id": ""}, Code.INVALID_ARGUMENT),
        )
        if (rpc, each[0]["model_id"]) != ("GetModelStats", "")  # all models
    ],
    ids=lambda value: value.get("model_id")[:12] or "empty" if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("service", ["compositing", "inference"])
def test_a_bad_model_call(duo: Duo, steady: SteadyCaller, service: str, rpc: str, fields: dict[str, str], code: Code) -> None:
    module, stub = (compositing_pb2, duo.pictures) if service == "compositing" else (inference_pb2, duo.mouths)
    error = refused(lambda: getattr(stub, rpc)(getattr(module, f"{rpc}Request")(**fields), timeout=CALL_S))
    assert error.code() is code, error.details()
    assert_is_a_sentence(error.details() or "")
    if code is Code.INVALID_ARGUMENT:
        assert violated(error) == ["model_id"]
    steady.wait_for_a_call()


@pytest.mark.parametrize(
    ("service", "avatar_id"),
    [(service, name) for service in RPCS for name in BROKEN if (service, name) != ("inference", "truncated-jpeg")],
)
def test_loading_a_broken_avatar(duo: Duo, steady: SteadyCaller, service: str, avatar_id: str) -> None:
    """A frame that cannot be decoded shows when it is read: the inference service reads frames when they are asked for."""
    module, stub = (compositing_pb2, duo.pictures) if service == "compositing" else (inference_pb2, duo.mouths)
    error = refused(lambda: stub.LoadModel(module.LoadModelRequest(model_id=avatar_id), timeout=CALL_S))
    assert error.code() is Code.FAILED_PRECONDITION, error.details()
    assert_is_a_sentence(error.details() or "")
    steady.wait_for_a_call()


ENCODING = [
    ("unknown id", {"model_id": "nobody"}, Code.NOT_FOUND, ()),
    ("bad id", {"model_id": "../x"}, Code.INVALID_ARGUMENT, ("model_id",)),
    ("no rows", {"row_count": 0}, Code.INVALID_ARGUMENT, ("row_count",)),
    ("too many rows", {"row_count": 10**6}, Code.INVALID_ARGUMENT, ("row_count",)),
    ("no sound", {"raw_audio": b""}, Code.INVALID_ARGUMENT, ("raw_audio",)),
    ("NaN", {"raw_audio": sound(at7=np.nan)}, Code.INVALID_ARGUMENT, ("raw_audio",)),
    ("rate", {"sample_rate": 7}, Code.INVALID_ARGUMENT, ("sample_rate",)),
    ("start", {"audio_start_frame": -1}, Code.INVALID_ARGUMENT, ("audio_start_frame",)),
    ("due too late", {"due_in_ms": 60_001}, Code.INVALID_ARGUMENT, ("due_in_ms",)),
    ("no shared encoder", {"model_id": ""}, Code.FAILED_PRECONDITION, ()),
    ("broken encoder", {"model_id": "truncated-encoder"}, Code.FAILED_PRECONDITION, ()),
]


@pytest.mark.parametrize(("fields", "code", "fields_named"), [each[1:] for each in ENCODING], ids=[each[0] for each in ENCODING])
def test_bad_sound_to_encode(
    duo: Duo, steady: SteadyCaller, fields: dict[str, Any], code: Code, fields_named: tuple[str, ...]
) -> None:
    asked = {"model_id": "small", "raw_audio": sound(), "row_count": 4, **fields}
    error = refused(lambda: duo.mouths.EncodeAudio(inference_pb2.EncodeAudioRequest(**asked), timeout=CALL_S))
    assert error.code() is code, error.details()
    assert_is_a_sentence(error.details() or "")
    if fields_named:
        assert tuple(violated(error)) == fields_named
    steady.wait_for_a_call()


@pytest.mark.parametrize("service", ["compositing", "inference"])
def test_an_unknown_method(duo: Duo, service: str) -> None:
    channel = duo.to_compositing if service == "compositing" else duo.to_inference
    name = f"{service}.{service.title()}Service"
    for path in (f"/{name}/Nothing", "/monolithic.MonolithicService/Health", "/"):
        error = refused(lambda path=path: channel.unary_unary(path)(b"", timeout=CALL_S))
        assert error.code() is Code.UNIMPLEMENTED


@pytest.mark.parametrize("rpc", ["InferBatchComposite", "InferBatch"])
def test_rate_0_is_16_khz(duo: Duo, rpc: str) -> None:
    assert run(duo, rpc, {"sample_rate": 0}).success


def test_a_deadline_that_has_passed(duo: Duo, steady: SteadyCaller) -> None:
    request = compositing_pb2.CompositeBatchRequest(model_id="small", batch_size=20, raw_audio=sound())
    error = refused(lambda: duo.pictures.InferBatchComposite(request, timeout=0.0005))
    assert error.code() is Code.DEADLINE_EXCEEDED
    steady.wait_for_a_call()
