"""Limits of a request, as a pure function of the message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_kit.geometry import Paste
from avatar_kit.timeline import Loop, frame_at
from compositing_service.mouth_source import MouthOrder
from compositing_service.outputs import JpegOutput, RawOutput
from compositing_service.request import RequestRules, read_order
from service_kit.errors import InvalidRequest
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2

RULES = RequestRules(max_batch_size=50, max_audio_seconds=60, jpeg_quality=80, output_format=pb.FORMAT_JPEG)
ROW = 2048
WINDOW = 16 * ROW
VISUAL = 2_457_600


def request(**fields: Any) -> pb.CompositeBatchRequest:
    return pb.CompositeBatchRequest(**{"model_id": "demo", "batch_size": 2, "raw_audio": floats(1280), **fields})


def order_of(sent: pb.CompositeBatchRequest, frames: list[int]) -> MouthOrder:
    order = read_order(sent, RULES).mouths(frames, avatar_version="v1", paste=Paste.FEATHER)
    assert order is not None
    return order


def message_of(sent: pb.CompositeBatchRequest, frames: list[int]) -> inference_pb2.InferBatchRequest:
    return order_of(sent, frames).message()


def floats(count: int, *, bad: float | None = None) -> bytes:
    values = np.zeros(count, "<f4")
    if bad is not None:
        values[count // 2] = bad
    return values.tobytes()


def fields_of(sent: pb.CompositeBatchRequest) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        read_order(sent, RULES)
    assert all(violation.description for violation in caught.value.violations)
    return [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"model_id": ""}, "model_id", id="no id"),
        pytest.param({"model_id": "../x"}, "model_id", id="a path for an id"),
        pytest.param({"model_id": "x" * 10_000}, "model_id", id="endless id"),
        pytest.param({"batch_size": 0}, "batch_size", id="no frames"),
        pytest.param({"batch_size": -1}, "batch_size", id="negative batch"),
        pytest.param({"batch_size": 51}, "batch_size", id="one frame too many"),
        pytest.param({"batch_size": 10**6}, "batch_size", id="a million frames"),
        pytest.param({"start_frame_idx": -1}, "start_frame_idx", id="negative position"),
        pytest.param({"sample_rate": 7}, "sample_rate", id="7 Hz"),
        pytest.param({"sample_rate": 10**9}, "sample_rate", id="1 GHz"),
        pytest.param({"sample_rate": -16000}, "sample_rate", id="negative rate"),
        pytest.param({"raw_audio": b""}, "raw_audio", id="no sound at all"),
        pytest.param({"raw_audio": b"abc"}, "raw_audio", id="3 bytes"),
        pytest.param({"raw_audio": b"abc", "audio_encoding": pb.PCM_INT16}, "raw_audio", id="3 bytes of int16"),
        pytest.param({"raw_audio": floats(1280, bad=np.nan)}, "raw_audio", id="NaN in sound"),
        pytest.param({"raw_audio": floats(1280, bad=-np.inf)}, "raw_audio", id="infinity in sound"),
        pytest.param({"raw_audio": floats(600 * 16_000)}, "raw_audio", id="ten minutes"),
        pytest.param({"raw_audio": floats(8_001 * 60), "sample_rate": 8000}, "raw_audio", id="too long at 8 kHz"),
        pytest.param({"lead_in_frames": -1}, "lead_in_frames", id="negative lead-in"),
        pytest.param({"lead_in_frames": 1501}, "lead_in_frames", id="lead-in beyond any sound"),
        pytest.param({"audio_start_frame": -1}, "audio_start_frame", id="negative start of the sound"),
        pytest.param({"audio_encoding": 9}, "audio_encoding", id="unknown encoding"),
        pytest.param({"audio_edges": 9}, "audio_edges", id="unknown edges"),
        pytest.param({"audio_edges": pb.EDGES_REFERENCE}, "raw_audio", id="80 ms with the reference's edges"),
        pytest.param(
            {"audio_edges": pb.EDGES_REFERENCE, "raw_audio": floats(6000), "audio_start_frame": 5},
            "audio_start_frame",
            id="part of a clip with the reference's edges",
        ),
        pytest.param({"raw_audio": b"", "audio_features": bytes(WINDOW - 4)}, "audio_features", id="short window"),
        pytest.param(
            {"raw_audio": b"", "audio_features": bytes(3 * WINDOW)}, "audio_features", id="three windows for two frames"
        ),
        pytest.param({"raw_audio": b"", "audio_features": floats(8192, bad=np.nan)}, "audio_features", id="NaN in a window"),
        pytest.param({"raw_audio": b"", "feature_rows": bytes(16 * ROW)}, "feature_rows", id="rows of one frame for two"),
        pytest.param({"raw_audio": b"", "feature_rows": floats(17 * 512, bad=np.inf)}, "feature_rows", id="infinity in rows"),
        pytest.param({"visual_frames": bytes(VISUAL - 1)}, "visual_frames", id="short picture"),
        pytest.param({"visual_frames": bytes(3 * VISUAL)}, "visual_frames", id="three pictures for two frames"),
        pytest.param({"visual_frames": floats(VISUAL // 4, bad=np.inf)}, "visual_frames", id="infinity in a picture"),
        pytest.param({"jpeg_quality": -1}, "jpeg_quality", id="negative quality"),
        pytest.param({"jpeg_quality": 101}, "jpeg_quality", id="quality beyond 100"),
        pytest.param({"jpeg_quality": 80, "quality_preset": pb.QUALITY_LOW}, "jpeg_quality", id="quality and preset"),
        pytest.param({"quality_preset": 17}, "quality_preset", id="unknown preset"),
        pytest.param({"output_format": 17}, "output_format", id="unknown format"),
    ],
)
def test_one_problem_is_named_alone(changes: dict[str, Any], field: str) -> None:
    assert fields_of(request(**changes)) == [field]


def test_all_problems_come_at_once() -> None:
    sent = request(
        model_id="../x",
        batch_size=0,
        start_frame_idx=-5,
        sample_rate=7,
        raw_audio=b"abc",
        visual_frames=b"x",
        jpeg_quality=300,
        output_format=9,
    )
    assert set(fields_of(sent)) == {
        "model_id",
        "batch_size",
        "start_frame_idx",
        "sample_rate",
        "raw_audio",
        "visual_frames",
        "jpeg_quality",
        "output_format",
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, 80, id="the service's own"),
        pytest.param({"jpeg_quality": 1}, 1, id="lowest"),
        pytest.param({"jpeg_quality": 100}, 100, id="highest"),
        pytest.param({"quality_preset": pb.QUALITY_LOW}, 50, id="low"),
        pytest.param({"quality_preset": pb.QUALITY_MEDIUM}, 75, id="medium"),
        pytest.param({"quality_preset": pb.QUALITY_HIGH}, 90, id="high"),
    ],
)
def test_quality(changes: dict[str, Any], expected: int) -> None:
    assert read_order(request(**changes), RULES).output == JpegOutput(expected)


def test_format_is_the_services_own_unless_the_request_says() -> None:
    raw_rules = replace(RULES, output_format=pb.FORMAT_RAW_BGR)
    assert read_order(request(), RULES).output == JpegOutput(80)
    assert read_order(request(output_format=pb.FORMAT_RAW_BGR), RULES).output == RawOutput()
    assert read_order(request(), raw_rules).output == RawOutput()
    assert read_order(request(output_format=pb.FORMAT_JPEG), raw_rules).output == JpegOutput(80)


def test_raw_audio_wins_and_the_losers_are_not_looked_at() -> None:
    sent = message_of(request(audio_features=b"x", feature_rows=b"y"), [0, 1])
    assert (sent.raw_audio, sent.audio_features, sent.feature_rows) == (floats(1280), b"", b"")


def test_huge_finite_values_are_not_taken_for_infinity() -> None:
    sound = np.full(1280, np.finfo(np.float32).max, "<f4").tobytes()
    assert message_of(request(raw_audio=sound), [0, 1]).raw_audio == sound


def test_rate_zero_means_16_khz() -> None:
    assert message_of(request(sample_rate=0), [0, 1]).sample_rate == 16_000


def test_avatar_frames_are_asked_for_unless_pictures_are_sent() -> None:
    own = message_of(request(), [4, 3])
    sent = message_of(request(visual_frames=bytes(VISUAL)), [4, 3])
    assert list(own.frame_indices) == [4, 3]
    assert list(sent.frame_indices) == []
    assert own.mouth_format == sent.mouth_format == inference_pb2.UINT8_BGR


@pytest.mark.parametrize(
    ("paste", "fit"),
    [
        (Paste.REFERENCE, inference_pb2.FIT_CROP),
        (Paste.FEATHER, inference_pb2.FIT_CROP),
        (Paste.DIRECT, inference_pb2.FIT_MOUTH),
    ],
)
def test_mouths_are_asked_for_as_they_are_pasted(paste: Paste, fit: inference_pb2.MouthFit.ValueType) -> None:
    order = read_order(request(), RULES).mouths([0, 1], avatar_version="v1", paste=paste)
    assert order is not None
    assert order.message().mouth_fit == order.tail(1).message().mouth_fit == fit


def test_stored_features_are_of_the_avatars_frames_also_beside_pictures() -> None:
    for visual in (b"", bytes(VISUAL)):
        fields = {"raw_audio": b"", "stored_features": True, "visual_frames": visual}
        sent = message_of(request(**fields), [4, 3])
        assert sent.stored_features
        assert list(sent.frame_indices) == [4, 3]
    assert not message_of(request(), [4, 3]).stored_features


@pytest.mark.parametrize("field", ["raw_audio", "audio_features", "feature_rows"])
def test_stored_features_stand_alone(field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_order(request(**{"raw_audio": b"", field: b"abc", "stored_features": True}), RULES)
    assert [violation.field for violation in caught.value.violations] == ["stored_features"]
    assert field in caught.value.violations[0].description


def test_the_last_position_of_an_int32_is_on_the_timeline() -> None:
    order = read_order(request(start_frame_idx=2**31 - 1, batch_size=50, raw_audio=floats(32_000)), RULES)
    indices = [frame_at(order.start_position + k, 7, Loop.FORWARD) for k in range(50)]
    assert indices[0] == (2**31 - 1) % 7
    assert indices[49] == (2**31 + 48) % 7


def rows_of_frame(sent: inference_pb2.InferBatchRequest, k: int) -> tuple[object, ...]:
    """Sound and picture of frame `k` of an inference request, as the .proto files define them."""
    visual = sent.visual_frames
    if sent.raw_audio:
        sound: object = (sent.raw_audio, sent.lead_in_frames + k, sent.audio_start_frame)
    elif sent.feature_rows:
        sound = sent.feature_rows[k * ROW : (k + 16) * ROW]
    elif sent.stored_features:
        sound = sent.frame_indices[k]
    else:
        sound = sent.audio_features if len(sent.audio_features) == WINDOW else sent.audio_features[k * WINDOW : (k + 1) * WINDOW]
    picture: object = sent.frame_indices[k] if sent.frame_indices else None
    if visual:
        picture = visual[:8] if len(visual) == VISUAL else visual[k * VISUAL : k * VISUAL + 8]
    return sound, picture


@st.composite
def orders(draw: st.DrawFn) -> tuple[pb.CompositeBatchRequest, int]:
    """A request and a place in its batch."""
    batch = draw(st.integers(1, 6))
    first = draw(st.integers(0, batch - 1))
    fields: dict[str, Any] = {"batch_size": batch, "raw_audio": b""}
    source = draw(st.sampled_from(["raw_audio", "feature_rows", "stored_features", "one window", "windows"]))
    if source == "raw_audio":
        fields |= {"raw_audio": floats(640 * batch), "lead_in_frames": draw(st.integers(0, 20))}
    elif source == "feature_rows":
        fields["feature_rows"] = numbered((batch + 15) * 512)
    elif source == "stored_features":
        fields["stored_features"] = True
    else:
        fields["audio_features"] = numbered(8192 * (1 if source == "one window" else batch))
    pictures = draw(st.sampled_from([0, 1, batch]))
    if pictures:
        fields["visual_frames"] = numbered(pictures * VISUAL // 4)
    return request(**fields), first


def numbered(count: int) -> bytes:
    return (np.arange(count, dtype="<f4") / 1024).tobytes()  # within what is allowed


@given(orders())
def test_a_tail_is_made_from_the_same_as_in_the_whole(drawn: tuple[pb.CompositeBatchRequest, int]) -> None:
    sent, first = drawn
    order = order_of(sent, list(range(10, 10 + sent.batch_size)))
    whole, tail = order.message(), order.tail(first).message()
    assert tail.batch_size == sent.batch_size - first
    for k in range(tail.batch_size):
        assert rows_of_frame(tail, k) == rows_of_frame(whole, first + k)
    for blob, item in ((tail.visual_frames, VISUAL), (tail.audio_features, WINDOW)):
        assert len(blob) in (0, item, item * tail.batch_size)
    assert len(tail.feature_rows) in (0, (tail.batch_size + 15) * ROW)
