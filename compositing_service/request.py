"""Checks requests for frames: finds every problem of a request before any work is done.

Sound and other blobs are checked for NaN and infinity here too, so that the caller sees one complete list. Where several sources
of speech are sent, one counts and the others are not read. Each blob is read out of its message once, since each access copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from avatar_kit.errors import AvatarError
from avatar_kit.geometry import MOUTH_SIZE, Paste
from avatar_kit.ids import check_avatar_id
from compositing_service.mouth_source import (
    FITS,
    MouthOrder,
    Rows,
    Sound,
    Speech,
    StoredFeatures,
    Windows,
)
from compositing_service.outputs import H264Output, JpegOutput, Output, RawOutput, SessionOutput
from service_kit.errors import Problems, as_service_errors
from shared_proto import compositing_pb2 as pb
from shared_proto import inference_pb2
from shared_proto.field_checks import check_edges, check_enum, check_sound_format, one_or_each, read_floats, read_samples, rows_of
from shared_proto.timing import FRAME_RATE, ROW_SIZE, SAMPLE_RATE_HZ, WINDOW_ROWS

_PICTURE_SHAPE = (6, MOUTH_SIZE, MOUTH_SIZE)
_SOUND_FIELDS = ("raw_audio", "audio_features", "feature_rows")
_PRESETS = {pb.QUALITY_LOW: 50, pb.QUALITY_MEDIUM: 75, pb.QUALITY_HIGH: 90}


@dataclass(frozen=True, slots=True)
class Idle:
    """No speech: the avatar's own pictures are shown."""


Source: TypeAlias = Speech | Idle


@dataclass(frozen=True, slots=True)
class RequestRules:
    """The limits and defaults that the service's configuration sets."""

    max_batch_size: int
    max_audio_seconds: float
    jpeg_quality: int
    output_format: pb.OutputFormat.ValueType


@dataclass(frozen=True, slots=True)
class CompositeOrder:
    """A valid request."""

    avatar_id: str
    frame_count: int
    start_position: int
    output: Output
    source: Source
    pictures: bytes
    """Crops that the caller sent in place of the avatar's own."""

    def mouths(self, frames: Sequence[int], *, avatar_version: str, paste: Paste) -> MouthOrder | None:
        """Returns the order of mouths for these frames of the avatar, to be pasted in that way; None without speech."""
        if isinstance(self.source, Idle):
            return None
        return MouthOrder(self.avatar_id, avatar_version, frames, self.source, self.pictures, fit=FITS[paste])


def read_order(request: pb.CompositeBatchRequest, rules: RequestRules) -> CompositeOrder:
    """Checks a request. Raises InvalidRequest with all its problems."""
    problems = Problems()
    check_model_id(request.model_id, problems)
    frame_count = request.batch_size
    if not 1 <= frame_count <= rules.max_batch_size:
        problems.add("batch_size", f"is {frame_count}; 1 to {rules.max_batch_size} frames a request are allowed")
        frame_count = 0  # sizes that depend on it are not checked
    if request.start_frame_idx < 0:
        problems.add("start_frame_idx", f"is {request.start_frame_idx}; a position on the timeline is 0 or more")
    _check_sound_fields(request, rules, problems)
    source = _source(request)
    pictures = b"" if isinstance(source, Idle) else request.visual_frames
    if pictures:
        read_floats("visual_frames", pictures, _PICTURE_SHAPE, one_or_each(frame_count), problems.add)
    match source:
        case Idle():
            sources = [*_SOUND_FIELDS, "stored_features", "visual_frames"]
            _check_alone("idle", request, sources, "frames of a person who does not speak need none of it", problems)
        case StoredFeatures():
            _check_alone("stored_features", request, _SOUND_FIELDS, "send one of them", problems)
        case Sound():
            _check_sound(source, rules.max_audio_seconds, problems)
        case Windows(data):
            read_floats("audio_features", data, (WINDOW_ROWS, ROW_SIZE), one_or_each(frame_count), problems.add)
        case Rows(data):
            read_floats("feature_rows", data, (ROW_SIZE,), rows_of(frame_count), problems.add)
    output = read_output(request, rules, problems)
    if isinstance(output, H264Output):
        problems.add("output_format", "is FORMAT_H264, whose frames need those before them: it is for sessions alone")
        output = RawOutput()
    problems.raise_if_any()
    return CompositeOrder(request.model_id, frame_count, request.start_frame_idx, output, source, pictures)


def read_model_id(model_id: str) -> str:
    """Checks the id of a request that has only an id. Raises InvalidRequest."""
    with as_service_errors(AvatarError, field="model_id"):
        return check_avatar_id(model_id)


def check_model_id(model_id: str, problems: Problems) -> None:
    """Notes an id that no avatar can have."""
    with problems.noting(AvatarError, field="model_id"):
        check_avatar_id(model_id)


def _check_sound_fields(request: pb.CompositeBatchRequest, rules: RequestRules, problems: Problems) -> None:
    """Checks the fields for the format of sound, in requests with sound and without."""
    check_sound_format(request.audio_encoding, request.sample_rate, problems.add)
    check_enum("audio_edges", request.audio_edges, pb.AudioEdges.DESCRIPTOR, problems.add)
    max_lead_in = int(rules.max_audio_seconds * FRAME_RATE)
    if not 0 <= request.lead_in_frames <= max_lead_in:
        problems.add("lead_in_frames", f"is {request.lead_in_frames}; 0 to {max_lead_in} are allowed")
    if request.audio_start_frame < 0:
        problems.add("audio_start_frame", f"is {request.audio_start_frame}; 0 or more are allowed")


def _source(request: pb.CompositeBatchRequest) -> Source:
    """Returns the first source of speech present. No source at all counts as empty sound."""
    if request.idle:
        return Idle()
    if request.stored_features:
        return StoredFeatures()
    sound = request.raw_audio
    if not sound:
        if windows := request.audio_features:
            return Windows(windows)
        if rows := request.feature_rows:
            return Rows(rows)
    return Sound(
        sound,
        encoding=inference_pb2.AudioEncoding.ValueType(request.audio_encoding),  # the same numbers in both services
        sample_rate=request.sample_rate or SAMPLE_RATE_HZ,
        lead_in_frames=request.lead_in_frames,
        start_frame=request.audio_start_frame,
        edges=inference_pb2.AudioEdges.ValueType(request.audio_edges),
    )


def _check_alone(field: str, request: pb.CompositeBatchRequest, others: Sequence[str], advice: str, problems: Problems) -> None:
    """Notes fields sent beside a source that allows no others."""
    if sent := [other for other in others if getattr(request, other)]:
        problems.add(field, f"is set together with {' and '.join(sent)}; {advice}")


def _check_sound(sound: Sound, max_seconds: float, problems: Problems) -> None:
    if not sound.data:
        problems.add("raw_audio", "there is no sound: send raw_audio, audio_features or feature_rows, or set stored_features")
        return
    samples = read_samples(sound.data, sound.encoding, sound.sample_rate, max_seconds, problems.add)
    if samples is not None:
        check_edges(sound.edges, len(samples), sound.sample_rate, sound.start_frame, problems.add)


def read_output(request: pb.CompositeBatchRequest | pb.SessionConfig, rules: RequestRules, problems: Problems) -> SessionOutput:
    """Checks the quality and the form of frames, and returns what they ask for."""
    quality, preset = request.jpeg_quality, request.quality_preset
    check_enum("quality_preset", preset, pb.QualityPreset.DESCRIPTOR, problems.add)
    if not 0 <= quality <= 100:
        problems.add("jpeg_quality", f"is {quality}; 1 to 100, or 0 for the service's own, are allowed")
    elif quality and preset:
        problems.add("jpeg_quality", "is given together with quality_preset; send one of them")
    check_enum("output_format", request.output_format, pb.OutputFormat.DESCRIPTOR, problems.add)
    output_format = request.output_format or rules.output_format
    if output_format == pb.FORMAT_RAW_BGR:
        return RawOutput()
    kind = H264Output if output_format == pb.FORMAT_H264 else JpegOutput
    return kind(quality or _PRESETS.get(preset, rules.jpeg_quality))
