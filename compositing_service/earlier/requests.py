"""Checks requests for frames: finds every problem of one before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avatar_kit.errors import AvatarError
from avatar_kit.ids import check_avatar_id
from compositing_service.earlier.pictures import VIDEO_TYPES
from compositing_service.mouth_source import Rows, Sound
from service_kit.errors import Problems
from shared_proto import optimized_lipsyncsrv_pb2 as pb
from shared_proto.timing import ROW_BYTES, ROWS_BEFORE, SAMPLES_A_FRAME, WINDOW_ROWS

MAX_FRAMES = 500
MAX_FRAME_ID = 2**31 - 1
# Pieces of sound before the first frame and after the last one.
PIECES_BEFORE, PIECES_AFTER = 8, 7
PIECE_BYTES = 4 * SAMPLES_A_FRAME
# Row j needs the pieces of the frames j - 1 to j + 5 of the sound (docs/api.md, EncodeAudio).
_ROW_NEEDS_BEFORE, _ROW_NEEDS_AFTER = 1, 5
# The first complete row is so far from the first frame, the last one from the last frame.
_FIRST_ROW = _ROW_NEEDS_BEFORE - PIECES_BEFORE
_LAST_ROW = PIECES_AFTER - _ROW_NEEDS_AFTER
# Windows step on a grid of so many frames of the whole sound.
_GRID_FRAMES = 5


@dataclass(frozen=True, slots=True)
class HeardFrames:
    """A checked BatchInferenceWithAudioRequest."""

    avatar_id: str
    start_position: int
    frame_count: int
    sound: Sound
    """All pieces. The position of the first frame is taken for its place in the whole sound, so that the frames do not depend on
    how a client that counts both alike cuts its batches."""

    @property
    def first_row(self) -> int:
        """The number of the first row that the pieces hold completely."""
        return self.sound.start_frame + PIECES_BEFORE + _FIRST_ROW

    @property
    def row_count(self) -> int:
        """The number of rows that they hold completely."""
        return self.frame_count + _LAST_ROW - _FIRST_ROW

    def completed(self, rows: Rows) -> Rows:
        """Returns the rows of all frames: those that the pieces do not hold are copies of the nearest of `rows`."""
        before, after = ROWS_BEFORE + _FIRST_ROW, WINDOW_ROWS - ROWS_BEFORE - 1 - _LAST_ROW
        return Rows(rows.data[:ROW_BYTES] * before + rows.data + rows.data[-ROW_BYTES:] * after, audio_ms=rows.audio_ms)


def check_frame_ids(avatar_id: str, frame_ids: Sequence[int], *, field: str) -> None:
    """Checks the name of an avatar and indices of its pictures. Raises InvalidRequest with all problems."""
    problems = _name_problems(avatar_id)
    if not 1 <= len(frame_ids) <= MAX_FRAMES:
        problems.add(field, f"{len(frame_ids)} of them; send 1 to {MAX_FRAMES}")
    if (lowest := min(frame_ids, default=0)) < 0:
        problems.add(field, f"has {lowest}; send 0 or more")
    problems.raise_if_any()


def check_name(avatar_id: str, *, field: str = "model_name") -> None:
    """Checks the name of an avatar. Raises InvalidRequest."""
    _name_problems(avatar_id, field=field).raise_if_any()


def check_video_frame(request: pb.GetVideoFrameRequest) -> None:
    """Checks a GetVideoFrameRequest. Raises InvalidRequest with all its problems."""
    problems = _name_problems(request.model_name)
    if request.frame_id < 0:
        problems.add("frame_id", f"is {request.frame_id}; send 0 or more")
    if request.video_type not in VIDEO_TYPES:
        problems.add("video_type", f"{request.video_type[:60]!r} is unknown; send {' or '.join(VIDEO_TYPES)}")
    problems.raise_if_any()


def read_heard_frames(request: pb.BatchInferenceWithAudioRequest, *, max_frames: int) -> HeardFrames:
    """Checks a BatchInferenceWithAudioRequest. Raises InvalidRequest with all its problems."""
    problems = _name_problems(request.model_name)
    count = request.frame_count
    if not 1 <= count <= max_frames:
        problems.add("frame_count", f"is {count}; send 1 to {max_frames}")
    most = MAX_FRAME_ID - max_frames
    if not 0 <= request.start_frame_id <= most:
        problems.add("start_frame_id", f"is {request.start_frame_id}; send 0 to {most}")
    pieces = list(request.audio_chunks)
    wanted = PIECES_BEFORE + count + PIECES_AFTER
    if 1 <= count <= max_frames and len(pieces) != wanted:
        counted = f"{PIECES_BEFORE} + frame_count + {PIECES_AFTER}"
        problems.add("audio_chunks", f"{len(pieces)} of them; send {wanted} ({counted})")
    _check_pieces(pieces, problems)
    problems.raise_if_any()
    start = (request.start_frame_id - PIECES_BEFORE) % _GRID_FRAMES
    return HeardFrames(request.model_name, request.start_frame_id, count, Sound(b"".join(pieces), start_frame=start))


def _check_pieces(pieces: Sequence[bytes], problems: Problems) -> None:
    wrong = [number for number, piece in enumerate(pieces) if len(piece) != PIECE_BYTES]
    if wrong:
        first = f"the first is number {wrong[0]} with {len(pieces[wrong[0]])} bytes"
        size = f"{PIECE_BYTES} bytes ({SAMPLES_A_FRAME} float32 samples)"
        problems.add("audio_chunks", f"{len(wrong)} of them have another size than {size}; {first}")
        return
    endless = [number for number, piece in enumerate(pieces) if not np.isfinite(np.frombuffer(piece, "<f4")).all()]
    if endless:
        problems.add("audio_chunks", f"{len(endless)} of them hold NaN or infinity; the first is number {endless[0]}")


def _name_problems(avatar_id: str, *, field: str = "model_name") -> Problems:
    problems = Problems()
    with problems.noting(AvatarError, field=field):
        check_avatar_id(avatar_id)
    return problems
