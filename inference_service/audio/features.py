"""Turns sound into the windows of a batch, or into rows. The service calls it from any thread; it blocks."""

from __future__ import annotations

import numpy as np

from inference_service.audio import reference_edges
from inference_service.audio.encoder import AudioEncoder, EncodedRows
from inference_service.audio.line import SoundLine, Starts, row_columns, row_starts
from inference_service.audio.pcm import Sound
from inference_service.audio.windows import FrameWindows, Rows, windows_before, windows_of_rows
from service_kit.errors import FailedPrecondition
from shared_proto.inference_pb2 import EDGES_REFERENCE, EDGES_SILENCE, AudioEdges
from shared_proto.timing import CONTEXT_ROWS, ROW_SIZE, ROWS_BEFORE, SAMPLES_A_FRAME, rows_read

# Rows whose columns are computed at once: bounds the memory for a long sound, and fits the processor's cache.
_BLOCK_ROWS = 64


class AudioFeatures:
    """Computes features of sound with one avatar's encoder, or the shared one. Thread-safe."""

    def __init__(self, encoder: AudioEncoder) -> None:
        self._encoder = encoder
        self._refusal = ""

    @property
    def sample_rows(self) -> Rows:
        """The encoder's rows of noise, [16, 512], which show how it computes. Raises FailedPrecondition."""
        return self._encoder.sample_rows

    def refuse(self, reason: str) -> None:
        """Refuses all sound from now on with `reason`."""
        self._refusal = reason

    def frame_windows(
        self,
        sound: Sound,
        *,
        batch_size: int,
        lead_in_frames: int = 0,
        audio_start_frame: int = 0,
        edges: AudioEdges.ValueType = EDGES_SILENCE,
    ) -> FrameWindows:
        """Computes the window of each frame of a batch: [batch_size, 16, 512].

        The first frame starts `lead_in_frames` x 640 samples into the sound, which starts `audio_start_frame` x 640 samples into
        the whole. The sound must suit the edges (`shared_proto.field_checks.check_edges`).
        """
        if edges == EDGES_REFERENCE:
            return windows_of_rows(self._reference_rows(sound, lead_in_frames, batch_size))
        first_row = audio_start_frame + lead_in_frames - ROWS_BEFORE
        row_count = batch_size + CONTEXT_ROWS
        return windows_of_rows(self.rows(sound, first_row=first_row, row_count=row_count, audio_start_frame=audio_start_frame))

    def growing_windows(
        self, known: Rows, sound: Sound, *, batch_size: int, lead_in_frames: int, audio_start_frame: int, look_ahead: int
    ) -> tuple[FrameWindows, EncodedRows]:
        """Computes what `frame_windows` does, from rows of which the first are `known`. Returns the others too.

        The sound may begin after the first frame: `lead_in_frames` is negative then.
        """
        first_row = audio_start_frame + lead_in_frames - ROWS_BEFORE + len(known)
        row_count = rows_read(batch_size, look_ahead) - len(known)
        new = EncodedRows.none()
        if row_count:
            new = self.encoded_rows(sound, first_row=first_row, row_count=row_count, audio_start_frame=audio_start_frame)
        return windows_before(np.concatenate([known, new.rows]), look_ahead), new

    def rows(self, sound: Sound, *, first_row: int, row_count: int, audio_start_frame: int = 0) -> Rows:
        """Computes rows of the whole sound, of which `sound` starts at frame `audio_start_frame`: [row_count, 512].

        Row j is the same bytes whatever else was sent when `sound` has all samples of the whole from 640 (j - 1) to 640 (j + 6).
        """
        return self.encoded_rows(sound, first_row=first_row, row_count=row_count, audio_start_frame=audio_start_frame).rows

    def encoded_rows(self, sound: Sound, *, first_row: int, row_count: int, audio_start_frame: int = 0) -> EncodedRows:
        """Computes what `rows` does, and which of the rows are silent."""
        line = SoundLine.in_silence(sound, start=SAMPLES_A_FRAME * audio_start_frame)
        return self._encoded(line, row_starts(first_row, row_count))

    def _reference_rows(self, sound: Sound, first_frame: int, frames: int) -> Rows:
        wanted = reference_edges.entry_rows(len(sound), first_frame, frames)
        rows = np.zeros((len(wanted), ROW_SIZE), np.float32)
        there = wanted != reference_edges.ZERO_ROW
        if there.any():
            first, last = int(wanted[there].min()), int(wanted[there].max())
            starts = reference_edges.clip_row_starts(len(sound), first, last - first + 1)
            rows[there] = self._encoded(SoundLine.cut_off(sound), starts).rows[wanted[there] - first]
        return rows

    def _encoded(self, line: SoundLine, starts: Starts) -> EncodedRows:
        if self._refusal:
            raise FailedPrecondition(self._refusal)
        rows = np.empty((len(starts), ROW_SIZE), np.float32)
        silent = np.empty(len(starts), np.bool_)
        for first in range(0, len(starts), _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            encoded = self._encoder.encode(row_columns(line, starts[block]))
            rows[block], silent[block] = encoded.rows, encoded.silent
        return EncodedRows(rows, silent)
