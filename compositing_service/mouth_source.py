"""The seam to the network: orders for mouths and for feature rows, the mouths, and a Protocol for their source.

An order is immutable and has everything that a mouth depends on, so a part of it can be ordered again from another replica.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from avatar_kit.geometry import MOUTH_SIZE, Paste
from service_kit.deadline import Deadline
from service_kit.errors import ServiceError
from shared_proto import inference_pb2
from shared_proto.timing import ROW_BYTES, SAMPLE_RATE_HZ, WINDOW_BYTES, WINDOW_ROWS, rows_read

MOUTH_BYTES = MOUTH_SIZE * MOUTH_SIZE * 3
FITS = {
    Paste.REFERENCE: inference_pb2.FIT_CROP,
    Paste.FEATHER: inference_pb2.FIT_CROP,
    Paste.DIRECT: inference_pb2.FIT_MOUTH,
}
"""The way to resize a mouth to its rectangle, for each way to paste it."""
MOST_OVERDUE_MS = 60_000
"""More is not told."""
PICTURE_BYTES = 6 * MOUTH_SIZE * MOUTH_SIZE * 4


@dataclass(frozen=True, slots=True)
class Sound:
    """Mono sound, of which the first ordered frame begins `lead_in_frames` frames of 40 ms after its start."""

    data: bytes
    encoding: inference_pb2.AudioEncoding.ValueType = inference_pb2.PCM_FLOAT32
    sample_rate: int = SAMPLE_RATE_HZ
    """Hz."""
    lead_in_frames: int = 0
    start_frame: int = 0
    """The 40 ms frame of the whole sound at which `data` begins."""
    edges: inference_pb2.AudioEdges.ValueType = inference_pb2.EDGES_SILENCE

    def after(self, frames: int) -> Self:
        """Returns the same sound for an order that begins so many frames later."""
        return replace(self, lead_in_frames=self.lead_in_frames + frames)

    def write(self, request: inference_pb2.InferBatchRequest) -> None:
        """Sets the fields of an order's message."""
        request.raw_audio = self.data
        request.audio_encoding = self.encoding
        request.sample_rate = self.sample_rate
        request.lead_in_frames = self.lead_in_frames
        request.audio_start_frame = self.start_frame
        request.audio_edges = self.edges


@dataclass(frozen=True, slots=True)
class Windows:
    """Feature windows, float32 little endian [n, 16, 512]: one a frame, or one for all frames."""

    data: bytes

    @classmethod
    def of_silence(cls, silent_row: bytes) -> Self:
        """Returns the window of a frame in endless silence, for all frames of an order."""
        return cls(silent_row * WINDOW_ROWS)


@dataclass(frozen=True, slots=True)
class Rows:
    """Feature rows, float32 little endian [frames + 15, 512]: frame k reads rows k .. k + 15."""

    data: bytes
    audio_ms: float = 0.0
    """Time that computing them from sound took."""
    silent: bytes = b""
    """One byte a row: 1 where the row's spectrum is silence. Empty: not known."""


@dataclass(frozen=True, slots=True)
class StoredFeatures:
    """Each frame has the features of the avatar's own clip at that place."""


@dataclass(frozen=True, slots=True)
class GrowingSound:
    """Sound that comes bit by bit: of the rows that the frames read, the first are known, and the others come with the mouths."""

    known_rows: bytes
    """float32 little endian [n, 512], from row k - 9 on for a first frame k."""
    sound: Sound
    """Has what the other rows read. It may begin after the first frame: `lead_in_frames` is negative then."""
    look_ahead_frames: int
    """Frame k reads row min(j, k + look_ahead_frames - 6) in place of each row j of k - 9 .. k + 6."""

    def unknown_rows(self, frames: int) -> int:
        """Counts the rows that so many frames read and that are not known."""
        return rows_read(frames, self.look_ahead_frames) - len(self.known_rows) // ROW_BYTES


Speech: TypeAlias = Sound | Windows | Rows | StoredFeatures | GrowingSound


@dataclass(frozen=True, slots=True)
class MouthOrder:
    """A mouth for each of `frames`, which are indices of the avatar's frames."""

    avatar_id: str
    avatar_version: str
    """`Avatar.version` of the files that the mouths are pasted into."""
    frames: Sequence[int]
    speech: Speech
    pictures: bytes = b""
    """Replaces the avatar's own crops: float32 little endian [n, 6, 320, 320], one a frame or one for all."""
    due_in_ms: int = 0
    """The first mouth is due in so many milliseconds, below 0: was due; 0: batch work, which takes what is left."""
    admission: inference_pb2.SessionAdmission.ValueType = inference_pb2.ADMITTED
    fit: inference_pb2.MouthFit.ValueType = inference_pb2.FIT_NONE
    """Asks for mouths in the size of their rectangles. A source may send any of them in full size all the same."""
    numerics: str = ""
    """The way that earlier mouths were computed, which is preferred for these."""
    rate: inference_pb2.MouthRate.ValueType = inference_pb2.MOUTH_RATE_FULL
    """Halved: mouths for the first of the frames, the third, the fifth ... only."""

    @property
    def step(self) -> int:
        """Frames that each mouth is for."""
        return 2 if self.rate == inference_pb2.MOUTH_RATE_HALVED else 1

    @property
    def mouths(self) -> int:
        """The number of mouths that come."""
        return -(-len(self.frames) // self.step)

    def tail(self, first_mouth: int) -> Self:
        """Returns the order for the mouths from `first_mouth` on, the same as in the whole order."""
        first = first_mouth * self.step
        match self.speech:
            case Sound() as sound:
                speech: Speech = sound.after(first)
            case GrowingSound(known_rows, sound) as growing:
                speech = replace(growing, known_rows=known_rows[first * ROW_BYTES :], sound=sound.after(first))
            case Windows(data):
                speech = Windows(_items_from(data, first, WINDOW_BYTES))
            case Rows(data):
                speech = Rows(data[first * ROW_BYTES :])
            case StoredFeatures() as speech:
                pass
        return replace(self, frames=self.frames[first:], speech=speech, pictures=_items_from(self.pictures, first, PICTURE_BYTES))

    def message(self) -> inference_pb2.InferBatchRequest:
        """Returns the order as the inference service reads it."""
        request = inference_pb2.InferBatchRequest(
            model_id=self.avatar_id,
            avatar_version=self.avatar_version,
            batch_size=len(self.frames),
            mouth_format=inference_pb2.UINT8_BGR,
            visual_frames=self.pictures,
            due_in_ms=max(1, self.due_in_ms) if self.due_in_ms else 0,
            overdue_ms=min(MOST_OVERDUE_MS, max(0, -self.due_in_ms)),
            admission=self.admission,
            mouth_fit=self.fit,
            mouth_rate=self.rate,
        )
        match self.speech:
            case Sound() as sound:
                sound.write(request)
            case GrowingSound(known_rows, sound, look_ahead_frames):
                sound.write(request)
                request.feature_rows = known_rows
                request.return_rows = True
                request.look_ahead_frames = look_ahead_frames
            case Windows(data):
                request.audio_features = data
            case Rows(data):
                request.feature_rows = data
            case StoredFeatures():
                request.stored_features = True
        if request.stored_features or not self.pictures:
            # With pictures, indices only choose the stored features of each frame.
            request.frame_indices.extend(self.frames)
        return request


@dataclass(frozen=True, slots=True)
class Mouths:
    """The mouths of successive frames of an order, made in one run of the network. Times are in milliseconds."""

    pixels: Sequence[NDArray[np.uint8]]
    """A mouth for each frame: read-only [320, 320, 3] or, where the order asks for it, of its rectangle's size. B, G, R."""
    queue_ms: float
    inference_ms: float
    audio_ms: float
    """Time that the sound of the whole order took; the same in all its groups."""
    gpu_id: int
    """-1 on a CPU."""
    rows: Rows | None = None
    """In the first group of an order with a `GrowingSound`: the rows that were not known."""
    numerics: str = ""
    """The way that they were computed: equal ones give equal bytes. Empty: not known."""
    overload: inference_pb2.Overload.ValueType = inference_pb2.OVERLOAD_NONE
    """Level to which live sessions are to be degraded now."""


@dataclass(frozen=True, slots=True)
class RowsOrder:
    """Feature rows `first_row` .. `first_row + count - 1` of the whole sound. Row j is for the 40 ms from 40 j ms on."""

    avatar_id: str
    avatar_version: str
    """The same as in `MouthOrder`."""
    sound: Sound
    first_row: int
    """May be negative."""
    count: int
    due_in_ms: int = 0
    """The same as in `MouthOrder`."""

    def message(self) -> inference_pb2.EncodeAudioRequest:
        """Returns the order as the inference service reads it."""
        return inference_pb2.EncodeAudioRequest(
            model_id=self.avatar_id,
            raw_audio=self.sound.data,
            audio_encoding=self.sound.encoding,
            sample_rate=self.sound.sample_rate,
            first_row=self.first_row,
            row_count=self.count,
            audio_start_frame=self.sound.start_frame,
            due_in_ms=self.due_in_ms,
            avatar_version=self.avatar_version,
        )


class MouthSource(Protocol):
    """A source of mouths: the inference service, or this process. Methods raise ServiceError, which may be shown to callers."""

    def mouths(self, order: MouthOrder, *, deadline: Deadline) -> AsyncGenerator[Mouths, None]:
        """Yields the mouths of an order, in order, each group as soon as it is made: all of them, or an error.

        Close the generator (`contextlib.aclosing`): that drops the remaining work.
        """

    async def rows(self, order: RowsOrder, *, deadline: Deadline) -> Rows:
        """Computes feature rows of sound with the avatar's audio encoder."""

    async def load(self, avatar_id: str, *, force_reload: bool, deadline: Deadline) -> list[ServiceError | None]:
        """Loads an avatar's network on every replica. Returns the error of each, None for success."""

    async def unload(self, avatar_id: str, *, deadline: Deadline) -> list[ServiceError | None]:
        """Unloads an avatar's network on every replica. Returns the error of each, None for success."""

    async def healthy(self) -> bool:
        """Returns True if any replica serves now. Takes a second at most."""


def _items_from(blob: bytes, first: int, item_bytes: int) -> bytes:
    """Returns the items from `first` on; a blob of one item is for all frames and stays whole."""
    return blob if len(blob) <= item_bytes else blob[first * item_bytes :]
