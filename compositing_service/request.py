"""What a CompositeBatchRequest asks for, checked: every problem of a request is found before any work is done.

Sound and blobs are checked for NaN and infinity here too, so that the caller sees one complete list. A source of sound that loses
to another one is not read at all. The bytes are read out of the message once (each access copies) and belong to the order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from avatar_kit.errors import InvalidAvatarId
from avatar_kit.ids import check_avatar_id
from service_kit.errors import Problems
from shared_proto import compositing_pb2, inference_pb2

FRAME_RATE = 25
DEFAULT_SAMPLE_RATE_HZ = 16_000
MIN_SAMPLE_RATE_HZ = 8_000
MAX_SAMPLE_RATE_HZ = 192_000
VISUAL_FRAME_BYTES = 6 * 320 * 320 * 4
FEATURE_ROW_BYTES = 512 * 4
FEATURE_WINDOW_BYTES = 16 * FEATURE_ROW_BYTES
# Frame k reads rows k .. k+15, so a batch needs that many rows more than frames.
EXTRA_ROWS = 15
# 5600 samples at 16 kHz: one window of the spectrum and what its edges need.
REFERENCE_MIN_SECONDS = 0.35

_PRESETS = {
    compositing_pb2.QUALITY_LOW: 50,
    compositing_pb2.QUALITY_MEDIUM: 75,
    compositing_pb2.QUALITY_HIGH: 90,
}
_SAMPLE_DTYPES: dict[int, DTypeLike] = {compositing_pb2.PCM_FLOAT32: "<f4", compositing_pb2.PCM_INT16: "<i2"}


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What the service's configuration says about requests."""

    max_batch_size: int
    max_audio_seconds: float
    jpeg_quality: int
    output_format: compositing_pb2.OutputFormat.ValueType


@dataclass(frozen=True, slots=True)
class CompositeOrder:
    """A request that was found to be right. Blobs that do not count are empty."""

    model_id: str
    batch_size: int
    start_position: int
    idle: bool
    jpeg_quality: int
    output_format: compositing_pb2.OutputFormat.ValueType
    visual_frames: bytes
    raw_audio: bytes
    audio_features: bytes
    feature_rows: bytes
    stored_features: bool
    sample_rate: int
    lead_in_frames: int
    audio_encoding: int
    audio_edges: int
    audio_start_frame: int

    def inference_request(
        self, frame_indices: Sequence[int], *, first: int = 0, avatar_version: str = ""
    ) -> inference_pb2.InferBatchRequest:
        """What to ask of the inference service for frames `first` .. batch_size - 1.

        `frame_indices` are those of the whole batch, `avatar_version` is of the files that it is composited with. A tail
        (`first` > 0) gives the same frames as the whole does, because the frames before it become part of the lead-in.
        """
        return inference_pb2.InferBatchRequest(
            model_id=self.model_id,
            visual_frames=_tail(self.visual_frames, first, VISUAL_FRAME_BYTES),
            raw_audio=self.raw_audio,
            audio_features=_tail(self.audio_features, first, FEATURE_WINDOW_BYTES),
            feature_rows=self.feature_rows[first * FEATURE_ROW_BYTES :],
            batch_size=self.batch_size - first,
            sample_rate=self.sample_rate,
            # Beside pictures they say whose stored features each frame reads.
            frame_indices=frame_indices[first:] if self.stored_features or not self.visual_frames else (),
            stored_features=self.stored_features,
            lead_in_frames=self.lead_in_frames + first if self.raw_audio else 0,
            mouth_format=inference_pb2.UINT8_BGR,
            audio_encoding=inference_pb2.AudioEncoding.ValueType(self.audio_encoding),
            audio_edges=inference_pb2.AudioEdges.ValueType(self.audio_edges),
            audio_start_frame=self.audio_start_frame,
            avatar_version=avatar_version,
        )


def _tail(blob: bytes, first: int, item_bytes: int) -> bytes:
    """Items from `first` on; a blob of one item serves the whole batch and stays."""
    return blob if len(blob) <= item_bytes else blob[first * item_bytes :]


def read_order(request: compositing_pb2.CompositeBatchRequest, rules: RequestRules) -> CompositeOrder:
    """Checks a request. Raises InvalidRequest with all its problems."""
    problems = Problems()
    _check_model_id(request.model_id, problems)
    batch_size = request.batch_size
    if not 1 <= batch_size <= rules.max_batch_size:
        problems.add("batch_size", f"is {batch_size}; 1 to {rules.max_batch_size} frames a request are allowed")
        batch_size = 0
    if request.start_frame_idx < 0:
        problems.add("start_frame_idx", f"is {request.start_frame_idx}; a position on the timeline is 0 or more")
    rate = _sample_rate(request.sample_rate, problems)
    _check_enum("audio_encoding", request.audio_encoding, compositing_pb2.AudioEncoding.values(), problems)
    _check_enum("audio_edges", request.audio_edges, compositing_pb2.AudioEdges.values(), problems)
    max_lead_in = int(rules.max_audio_seconds * FRAME_RATE)
    if not 0 <= request.lead_in_frames <= max_lead_in:
        problems.add("lead_in_frames", f"is {request.lead_in_frames}; 0 to {max_lead_in} are allowed")

    if request.audio_start_frame < 0:
        problems.add("audio_start_frame", f"is {request.audio_start_frame}; 0 or more are allowed")

    visual_frames = b"" if request.idle else request.visual_frames
    _check_per_frame("visual_frames", visual_frames, VISUAL_FRAME_BYTES, batch_size, problems)
    raw_audio, audio_features, feature_rows = request.raw_audio, request.audio_features, request.feature_rows
    if request.idle:
        _check_idle(request, problems)
        raw_audio = audio_features = feature_rows = b""
    elif request.stored_features:
        _check_no_sound(request, problems)
        raw_audio = audio_features = feature_rows = b""
    elif raw_audio:
        audio_features = feature_rows = b""
        _check_sound(raw_audio, request.audio_encoding, rate, rules.max_audio_seconds, problems)
        _check_edges(request, len(raw_audio), rate, problems)
    elif audio_features:
        feature_rows = b""
    elif not feature_rows:
        problems.add("raw_audio", "there is no sound: send raw_audio, audio_features or feature_rows, or set stored_features")
    _check_per_frame("audio_features", audio_features, FEATURE_WINDOW_BYTES, batch_size, problems)
    _check_rows(feature_rows, batch_size, problems)

    quality = _quality(request, rules, problems)
    _check_enum("output_format", request.output_format, compositing_pb2.OutputFormat.values(), problems)
    problems.raise_if_any()
    return CompositeOrder(
        model_id=request.model_id,
        batch_size=batch_size,
        start_position=request.start_frame_idx,
        idle=request.idle,
        jpeg_quality=quality,
        output_format=request.output_format or rules.output_format,
        visual_frames=visual_frames,
        raw_audio=raw_audio,
        audio_features=audio_features,
        feature_rows=feature_rows,
        stored_features=request.stored_features,
        sample_rate=rate,
        lead_in_frames=request.lead_in_frames,
        audio_encoding=request.audio_encoding,
        audio_edges=request.audio_edges,
        audio_start_frame=request.audio_start_frame,
    )


def read_model_id(model_id: str) -> str:
    """Checks the id of a request that has nothing else in it. Raises InvalidRequest."""
    problems = Problems()
    _check_model_id(model_id, problems)
    problems.raise_if_any()
    return model_id


def _check_model_id(model_id: str, problems: Problems) -> None:
    try:
        check_avatar_id(model_id)
    except InvalidAvatarId as error:
        problems.add("model_id", str(error))


def _sample_rate(rate: int, problems: Problems) -> int:
    """The rate in Hz; 0 where it is wrong."""
    if rate == 0:
        return DEFAULT_SAMPLE_RATE_HZ
    if MIN_SAMPLE_RATE_HZ <= rate <= MAX_SAMPLE_RATE_HZ:
        return rate
    problems.add(
        "sample_rate",
        f"is {rate} Hz; {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}, or 0 for {DEFAULT_SAMPLE_RATE_HZ}, are allowed",
    )
    return 0


def _check_enum(field: str, value: int, known: Sequence[int], problems: Problems) -> None:
    if value not in known:
        problems.add(field, f"has the unknown value {value}; known are {', '.join(map(str, known))}")


def _check_idle(request: compositing_pb2.CompositeBatchRequest, problems: Problems) -> None:
    """What a speaking person's frames are made from has no place beside a silent one's."""
    fields = ("raw_audio", "audio_features", "feature_rows", "stored_features", "visual_frames")
    if sent := [field for field in fields if getattr(request, field)]:
        problems.add("idle", f"is set together with {' and '.join(sent)}; frames of a person who does not speak need none of it")


def _check_no_sound(request: compositing_pb2.CompositeBatchRequest, problems: Problems) -> None:
    if sent := [field for field in ("raw_audio", "audio_features", "feature_rows") if getattr(request, field)]:
        problems.add("stored_features", f"is set together with {' and '.join(sent)}; send one of them")


def _check_sound(raw_audio: bytes, encoding: int, rate: int, max_seconds: float, problems: Problems) -> None:
    if (dtype := _SAMPLE_DTYPES.get(encoding)) is None:
        return
    sample_bytes = np.dtype(dtype).itemsize
    if len(raw_audio) % sample_bytes:
        problems.add("raw_audio", f"has {len(raw_audio)} bytes, not a multiple of the {sample_bytes} of a sample")
        return
    seconds = len(raw_audio) / sample_bytes / rate if rate else 0.0
    if seconds > max_seconds:
        problems.add("raw_audio", f"is {seconds:.1f} s long; at most {max_seconds:g} s a request are allowed")
        return
    if encoding == compositing_pb2.PCM_FLOAT32:
        _check_finite("raw_audio", raw_audio, problems)


def _check_edges(request: compositing_pb2.CompositeBatchRequest, sound_bytes: int, rate: int, problems: Problems) -> None:
    """The reference's edges are those of a whole clip, of a length that the reference can do."""
    dtype = _SAMPLE_DTYPES.get(request.audio_encoding)
    if request.audio_edges != compositing_pb2.EDGES_REFERENCE or dtype is None or not rate:
        return
    if sound_bytes / np.dtype(dtype).itemsize / rate < REFERENCE_MIN_SECONDS:
        problems.add(
            "raw_audio", f"is shorter than the {REFERENCE_MIN_SECONDS} s that EDGES_REFERENCE needs; send more, or EDGES_SILENCE"
        )
    if request.audio_start_frame > 0:
        problems.add("audio_start_frame", "is for parts of a clip; EDGES_REFERENCE needs all of it from the start, with 0 here")


def _check_per_frame(field: str, blob: bytes, item_bytes: int, batch_size: int, problems: Problems) -> None:
    """A blob of one item for the batch or one a frame; `batch_size` 0 where that is itself wrong."""
    if not blob:
        return
    if batch_size and len(blob) not in (item_bytes, item_bytes * batch_size):
        allowed = (
            str(item_bytes) if batch_size == 1 else f"{item_bytes} (one for the batch) or {item_bytes * batch_size} (one a frame)"
        )
        problems.add(field, f"has {len(blob)} bytes; {allowed} are expected")
    elif len(blob) % item_bytes:
        problems.add(field, f"has {len(blob)} bytes, not a multiple of {item_bytes}")
    else:
        _check_finite(field, blob, problems)


def _check_rows(rows: bytes, batch_size: int, problems: Problems) -> None:
    if not rows:
        return
    expected = (batch_size + EXTRA_ROWS) * FEATURE_ROW_BYTES
    if batch_size and len(rows) != expected:
        problems.add(
            "feature_rows",
            f"has {len(rows)} bytes; {expected} ({batch_size} + {EXTRA_ROWS} rows of {FEATURE_ROW_BYTES}) are expected",
        )
    elif len(rows) % FEATURE_ROW_BYTES:
        problems.add("feature_rows", f"has {len(rows)} bytes, not a multiple of {FEATURE_ROW_BYTES}")
    else:
        _check_finite("feature_rows", rows, problems)


def _check_finite(field: str, blob: bytes, problems: Problems) -> None:
    values = np.frombuffer(blob, dtype="<f4")
    # A sum is the quickest look that NaN and infinity cannot hide from; only huge finite values need the second one.
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.add.reduce(values))
    if math.isfinite(total):
        return
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        problems.add(field, f"has NaN or infinity at {bad.size} of {values.size} values, first at value {bad[0]}")


def _quality(request: compositing_pb2.CompositeBatchRequest, rules: RequestRules, problems: Problems) -> int:
    quality, preset = request.jpeg_quality, request.quality_preset
    _check_enum("quality_preset", preset, compositing_pb2.QualityPreset.values(), problems)
    if not 0 <= quality <= 100:
        problems.add("jpeg_quality", f"is {quality}; 1 to 100, or 0 for the service's own, are allowed")
    elif quality and preset:
        problems.add("jpeg_quality", "is given together with quality_preset; send one of them")
    return quality or _PRESETS.get(preset, rules.jpeg_quality)
