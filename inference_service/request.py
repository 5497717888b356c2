"""Checks requests: finds every problem of one before anything is loaded or computed.

Decoding sound and checking large blobs take time, so these functions are called on a worker thread for large requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avatar_kit.errors import AvatarError
from avatar_kit.geometry import MOUTH_SIZE
from avatar_kit.ids import check_avatar_id
from inference_service.audio.encoder import EncodedRows
from inference_service.audio.features import AudioFeatures
from inference_service.audio.pcm import Sound, decode_pcm
from inference_service.audio.windows import FrameWindows, Rows, windows_from_audio_features, windows_from_feature_rows
from inference_service.settings import LimitsSection
from service_kit.errors import Problems
from shared_proto import inference_pb2 as pb
from shared_proto.field_checks import check_edges, check_enum, one_or_each, read_floats
from shared_proto.timing import EXACT_LOOK_AHEAD, ROW_SIZE, SAMPLE_RATE_HZ, SHORTEST_LOOK_AHEAD, rows_read

MAX_VERSION_CHARS = 64
MAX_DUE_MS = 60_000
PICTURE_SHAPE = (6, MOUTH_SIZE, MOUTH_SIZE)


@dataclass(frozen=True)
class Speech:
    """Sound that frames are made for."""

    sound: Sound
    lead_in_frames: int  # of the sound before the first frame
    audio_start_frame: int  # of the whole sound, at which this part of it starts
    edges: pb.AudioEdges.ValueType

    def windows(self, features: AudioFeatures, frames: int) -> tuple[FrameWindows, None]:
        """Computes the window of each frame: [frames, 16, 512]."""
        windows = features.frame_windows(
            self.sound,
            batch_size=frames,
            lead_in_frames=self.lead_in_frames,
            audio_start_frame=self.audio_start_frame,
            edges=self.edges,
        )
        return windows, None


@dataclass(frozen=True)
class GrowingSpeech:
    """Rows that the caller knows, and the sound of the others that frames read."""

    known: Rows
    sound: Sound
    lead_in_frames: int  # of the sound before the first frame; negative: it begins after it
    audio_start_frame: int
    look_ahead: int

    def windows(self, features: AudioFeatures, frames: int) -> tuple[FrameWindows, EncodedRows]:
        """Computes the window of each frame, [frames, 16, 512], and the rows that are not known."""
        return features.growing_windows(
            self.known,
            self.sound,
            batch_size=frames,
            lead_in_frames=self.lead_in_frames,
            audio_start_frame=self.audio_start_frame,
            look_ahead=self.look_ahead,
        )


@dataclass(frozen=True)
class MouthRequest:
    """A checked InferBatchRequest."""

    model_id: str
    avatar_version: str  # empty: any
    batch_size: int
    frame_indices: tuple[int, ...]  # empty: along the avatar's loop from 0
    pictures: NDArray[np.float32] | None  # [1 or batch_size, 6, 320, 320]
    source: Speech | GrowingSpeech | FrameWindows | None  # None: the features that are stored with the avatar
    want_float: bool
    fit: pb.MouthFit.ValueType
    due_in_s: float | None  # of the first frame, below 0 when it was due before; None: batch work
    admission: pb.SessionAdmission.ValueType
    rate: pb.MouthRate.ValueType

    @property
    def asked_frames(self) -> int:
        """The frames that its caller shows, those with a mouth shown twice included."""
        return self.batch_size + self.batch_size % 2 if self.rate == pb.MOUTH_RATE_HALVED else self.batch_size


@dataclass(frozen=True)
class EncodeRequest:
    """A checked EncodeAudioRequest."""

    model_id: str
    avatar_version: str  # empty: any
    sound: Sound
    first_row: int
    row_count: int
    audio_start_frame: int
    is_due: bool

    def rows(self, features: AudioFeatures) -> EncodedRows:
        """Computes the rows: [row_count, 512]."""
        return features.encoded_rows(
            self.sound, first_row=self.first_row, row_count=self.row_count, audio_start_frame=self.audio_start_frame
        )


def check_infer_request(request: pb.InferBatchRequest, limits: LimitsSection) -> MouthRequest:
    """Checks an InferBatchRequest. Raises InvalidRequest with all its problems."""
    problems = Problems()
    with problems.noting(AvatarError, field="model_id"):
        check_avatar_id(request.model_id)
    _check_version(request.avatar_version, problems)
    batch_size = request.batch_size
    if not 1 <= batch_size <= limits.max_batch_size:
        problems.add("batch_size", f"is {batch_size}; send 1 to {limits.max_batch_size}")
        batch_size = 0  # sizes that depend on it are not checked
    _check_due(request.due_in_ms, problems)
    if not 0 <= request.overdue_ms <= MAX_DUE_MS:
        problems.add("overdue_ms", f"is {request.overdue_ms}; send 0 to {MAX_DUE_MS}")
    if request.audio_start_frame < 0:
        problems.add("audio_start_frame", f"is {request.audio_start_frame}; send 0 or more")
    if request.lead_in_frames < 0 and not request.return_rows:
        problems.add("lead_in_frames", f"is {request.lead_in_frames}; send 0 or more")
    check_enum("mouth_format", request.mouth_format, pb.MouthFormat.DESCRIPTOR, problems.add)
    check_enum("mouth_fit", request.mouth_fit, pb.MouthFit.DESCRIPTOR, problems.add)
    if request.mouth_fit and request.mouth_format != pb.UINT8_BGR:
        problems.add("mouth_fit", "is for mouth_format UINT8_BGR; send FIT_NONE with others")
    check_enum("admission", request.admission, pb.SessionAdmission.DESCRIPTOR, problems.add)
    check_enum("mouth_rate", request.mouth_rate, pb.MouthRate.DESCRIPTOR, problems.add)
    frame_indices, pictures = _pictures(request, batch_size, problems)
    source = _source(request, batch_size, limits, problems)
    problems.raise_if_any()
    return MouthRequest(
        model_id=request.model_id,
        avatar_version=request.avatar_version,
        batch_size=batch_size,
        frame_indices=frame_indices,
        pictures=pictures,
        source=source,
        want_float=request.mouth_format == pb.FLOAT32_BGR,
        fit=request.mouth_fit,
        due_in_s=(request.due_in_ms - request.overdue_ms) / 1000 if request.due_in_ms else None,
        admission=request.admission,
        rate=request.mouth_rate,
    )


def check_encode_request(request: pb.EncodeAudioRequest, limits: LimitsSection) -> EncodeRequest:
    """Checks an EncodeAudioRequest. Raises InvalidRequest with all its problems."""
    problems = Problems()
    if request.model_id:
        with problems.noting(AvatarError, field="model_id"):
            check_avatar_id(request.model_id)
    _check_version(request.avatar_version, problems)
    if not 1 <= request.row_count <= limits.max_feature_rows:
        problems.add("row_count", f"is {request.row_count}; send 1 to {limits.max_feature_rows}")
    if request.audio_start_frame < 0:
        problems.add("audio_start_frame", f"is {request.audio_start_frame}; send 0 or more")
    _check_due(request.due_in_ms, problems)
    sound = _decoded(request.raw_audio, request, limits, problems)
    problems.raise_if_any()
    if sound is None:
        raise AssertionError("decode_pcm gave neither sound nor a problem")
    return EncodeRequest(
        model_id=request.model_id,
        avatar_version=request.avatar_version,
        sound=sound,
        first_row=request.first_row,
        row_count=request.row_count,
        audio_start_frame=request.audio_start_frame,
        is_due=request.due_in_ms > 0,
    )


def _check_version(version: str, problems: Problems) -> None:
    if len(version) > MAX_VERSION_CHARS:
        problems.add("avatar_version", f"has {len(version)} characters; send at most {MAX_VERSION_CHARS}, or none")


def _check_due(due_in_ms: int, problems: Problems) -> None:
    if not 0 <= due_in_ms <= MAX_DUE_MS:
        problems.add("due_in_ms", f"is {due_in_ms}; send 0 (no due time) to {MAX_DUE_MS}")


def _pictures(
    request: pb.InferBatchRequest, batch_size: int, problems: Problems
) -> tuple[tuple[int, ...], NDArray[np.float32] | None]:
    """Reads the pictures that the mouths are for: the indices of the avatar's own, and those that the caller sent, or None."""
    pictures, frame_indices = request.visual_frames, tuple(request.frame_indices)
    if request.mouth_rate == pb.MOUTH_RATE_HALVED and pictures:
        problems.add("mouth_rate", "is for the avatar's own pictures; send no MOUTH_RATE_HALVED with visual_frames")
    if frame_indices and pictures and not request.stored_features:
        problems.add("frame_indices", "not together with visual_frames, unless for stored_features: send one of them")
    if frame_indices and batch_size and len(frame_indices) != batch_size:
        problems.add("frame_indices", f"{len(frame_indices)} of them; send batch_size = {batch_size}, or none")
    if (lowest := min(frame_indices, default=0)) < 0:
        problems.add("frame_indices", f"has {lowest}; send 0 or more")
    if not pictures:
        return frame_indices, None
    return frame_indices, read_floats("visual_frames", pictures, PICTURE_SHAPE, one_or_each(batch_size), problems.add)


def _source(
    request: pb.InferBatchRequest, batch_size: int, limits: LimitsSection, problems: Problems
) -> Speech | GrowingSpeech | FrameWindows | None:
    """Reads the sound or the features; of several kinds the first counts. Returns None for stored features, or on a problem."""
    check_enum("audio_edges", request.audio_edges, pb.AudioEdges.DESCRIPTOR, problems.add)
    if request.look_ahead_frames and not request.return_rows:
        problems.add("look_ahead_frames", "is for return_rows; send 0 without")
    if request.return_rows:
        return _growing(request, batch_size, limits, problems)
    if request.stored_features:
        if sent := [field for field in ("raw_audio", "audio_features", "feature_rows") if getattr(request, field)]:
            problems.add("stored_features", f"not together with {' and '.join(sent)}: send one of them")
    elif raw_audio := request.raw_audio:
        sound = _decoded(raw_audio, request, limits, problems)
        if sound is not None:
            check_edges(request.audio_edges, len(sound), SAMPLE_RATE_HZ, request.audio_start_frame, problems.add)
            return Speech(sound, request.lead_in_frames, request.audio_start_frame, request.audio_edges)
    elif windows := request.audio_features:
        return windows_from_audio_features(windows, batch_size=batch_size, problems=problems)
    elif rows := request.feature_rows:
        return windows_from_feature_rows(rows, batch_size=batch_size, problems=problems)
    else:
        problems.add("raw_audio", "no sound: send raw_audio, audio_features or feature_rows, or set stored_features")
    return None


def _growing(request: pb.InferBatchRequest, batch_size: int, limits: LimitsSection, problems: Problems) -> GrowingSpeech | None:
    look_ahead = request.look_ahead_frames or EXACT_LOOK_AHEAD
    if not SHORTEST_LOOK_AHEAD <= look_ahead <= EXACT_LOOK_AHEAD:
        allowed = f"send {SHORTEST_LOOK_AHEAD} to {EXACT_LOOK_AHEAD}, or 0 for {EXACT_LOOK_AHEAD}"
        problems.add("look_ahead_frames", f"is {look_ahead}; {allowed}")
    if (first := request.audio_start_frame + request.lead_in_frames) < 0:
        problems.add("lead_in_frames", f"is {request.lead_in_frames}, so that the first frame is {first} of the whole; send more")
    if request.stored_features or request.audio_features or request.audio_edges:
        problems.add("return_rows", "is for raw_audio and feature_rows in silence alone")
    known = read_floats("feature_rows", request.feature_rows, (ROW_SIZE,), {}, problems.add)
    if known is None or problems.violations:
        return None
    read = rows_read(batch_size, look_ahead)
    if len(known) > read:
        problems.add("feature_rows", f"has {len(known)} rows, and the batch reads {read}")
    sound: Sound | None = np.empty(0, np.float32)
    if request.raw_audio or len(known) < read:
        sound = _decoded(request.raw_audio, request, limits, problems)
    if sound is None:
        return None
    return GrowingSpeech(known, sound, request.lead_in_frames, request.audio_start_frame, look_ahead)


def _decoded(
    data: bytes, request: pb.InferBatchRequest | pb.EncodeAudioRequest, limits: LimitsSection, problems: Problems
) -> Sound | None:
    return decode_pcm(
        data,
        encoding=request.audio_encoding,
        sample_rate=request.sample_rate,
        max_seconds=limits.max_audio_seconds,
        problems=problems,
    )
