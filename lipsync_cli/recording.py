"""Reads the sound of any audio or video file, in pieces, so that a long one needs no more memory than a short one.

PyAV includes FFmpeg's decoders, so no ffmpeg program is needed. A file is decoded twice: once to check it, so that errors appear
before any work is done, and once for use. A sound whose rate changes midway is resampled to the rate that most of it has. The
film's track keeps up to two channels; the server gets all of them mixed to one, resampled as in the networks' training.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import av
import numpy as np
import soxr
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from lipsync_cli.failures import CliError
from lipsync_cli.files import ffmpeg_name
from lipsync_cli.mixing import Levels, Samples
from shared_proto.timing import SAMPLE_RATE_HZ

# Decoders give some hundred samples at a time. They are joined to pieces of this size, as every step has a fixed cost.
PIECE_SAMPLES = 1 << 15

Speech = NDArray[np.float32]  # [samples], mono at 16 kHz
Weights = Mapping[tuple[str, ...], NDArray[np.float32]]
"""Float32 [channels, mixed channels], by the names of the channels."""


@dataclass(frozen=True)
class Piece:
    """A part of a sound: float32 [samples, channels], nominally in [-1, 1], and FFmpeg's names of the channels."""

    samples: Samples
    channels: tuple[str, ...]
    rate_hz: int


@dataclass(frozen=True)
class Track:
    """The sound track of a film: pieces of float32 [samples, channels], one or two channels."""

    pieces: Iterator[Samples]
    channels: int
    rate_hz: int


@dataclass(frozen=True)
class Recording:
    """The sound of a file that was checked."""

    path: Path
    rate_hz: int
    sample_count: int
    mono: Weights
    stereo: Weights
    warnings: tuple[str, ...]
    """Sentences about sound that will probably not be heard as intended."""

    @property
    def channels(self) -> int:
        """Number of channels of the film's track: one or two."""
        return min(2, max(map(len, self.mono)))

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.sample_count / self.rate_hz

    @property
    def speech_samples(self) -> int:
        """Number of samples of the speech."""
        return _resampled_count(self.sample_count, self.rate_hz, SAMPLE_RATE_HZ)

    def read(self) -> Iterator[Piece]:
        """Decodes the file again. Raises CliError."""
        return _at_rate(_decoded(self.path), self.rate_hz)

    def speech_of(self, pieces: Iterable[Piece]) -> Iterator[Speech]:
        """Mixes pieces to one channel, at 16 kHz."""
        mixed = (piece.samples @ self.mono[piece.channels] for piece in pieces)
        return (block[:, 0] for block in resampled(mixed, self.rate_hz, SAMPLE_RATE_HZ))

    def track_of(self, pieces: Iterable[Piece]) -> Track:
        """Mixes pieces to the film's track."""
        if self.channels == 1:
            return Track((piece.samples for piece in pieces), 1, self.rate_hz)
        return Track((piece.samples @ self.stereo[piece.channels] for piece in pieces), 2, self.rate_hz)

    def speech(self) -> Speech:
        """Reads all of the speech at once, for short files."""
        return np.concatenate(list(self.speech_of(self.read())))

    def track(self) -> Track:
        """Reads the film's track alone."""
        return self.track_of(self.read())


@contextmanager
def opened_recording(path: Path) -> Iterator[Recording]:
    """Reads a recording as `read_recording` does. The content of a pipe is copied to a file that is deleted after the block."""
    if not path.is_fifo():
        yield read_recording(path)
        return
    with tempfile.NamedTemporaryFile(prefix="lipsync-", suffix=path.suffix) as copy, path.open("rb") as pipe:
        shutil.copyfileobj(pipe, copy)
        copy.flush()
        yield read_recording(Path(copy.name))


def read_recording(path: Path) -> Recording:
    """Checks the first sound of a file. Raises CliError when there is none, it is damaged, or a sample is not a number."""
    levels: dict[tuple[str, ...], Levels] = {}
    runs: list[tuple[int, int]] = []
    for (channels, rate_hz), run in groupby(_finite(_decoded(path), path), _rate_and_channels):
        level = levels.setdefault(channels, Levels(channels))
        count = 0
        for piece in run:
            level.add(piece.samples)
            count += len(piece.samples)
        runs.append((rate_hz, count))
    if not runs:
        raise CliError(f"{path} holds no sound")
    rates = {rate for rate, _ in runs}
    rate_hz = max(rates, key=lambda rate: sum(count for own_hz, count in runs if own_hz == rate) / rate)
    return Recording(
        path=path,
        rate_hz=rate_hz,
        sample_count=sum(_resampled_count(count, own_hz, rate_hz) for own_hz, count in runs),
        mono={channels: level.mono_weights() for channels, level in levels.items()},
        stereo={channels: level.stereo_weights() for channels, level in levels.items()},
        warnings=tuple(f"{path}: {warning}" for level in levels.values() for warning in level.warnings()),
    )


def resampled(blocks: Iterable[Samples], from_hz: int, to_hz: int) -> Iterator[Samples]:
    """Resamples [samples, channels] block by block. The samples are the same as those of resampling all at once."""
    if from_hz == to_hz:
        yield from blocks
        return
    stream, empty = None, None
    for block in blocks:
        stream = stream or soxr.ResampleStream(from_hz, to_hz, block.shape[1], dtype="float32", quality="HQ")
        empty = block[:0]
        yield stream.resample_chunk(np.ascontiguousarray(block))
    if stream is not None:
        yield stream.resample_chunk(empty, last=True)


def _resampled_count(count: int, from_hz: int, to_hz: int) -> int:
    """Returns the number of samples that `resampled` makes of `count`."""
    return (2 * count * to_hz + from_hz) // (2 * from_hz)


def _at_rate(pieces: Iterator[Piece], rate_hz: int) -> Iterator[Piece]:
    """Resamples to one rate, each run of pieces with the same rate and channels by itself."""
    for (channels, own_hz), run in groupby(pieces, _rate_and_channels):
        for samples in resampled((piece.samples for piece in run), own_hz, rate_hz):
            yield Piece(samples, channels, rate_hz)


def _rate_and_channels(piece: Piece) -> tuple[tuple[str, ...], int]:
    return piece.channels, piece.rate_hz


def _finite(pieces: Iterator[Piece], path: Path) -> Iterator[Piece]:
    """Yields the pieces unchanged. Raises CliError for a sample that is not a number: resampling would make hundreds of it."""
    seconds = 0.0
    for piece in pieces:
        if not np.isfinite(piece.samples).all():
            place, channel = np.argwhere(~np.isfinite(piece.samples))[0]
            value = piece.samples[place, channel]
            at = seconds + place / piece.rate_hz
            raise CliError(
                f"{path}: the sample at {at:.4f} s of channel {channel + 1} (number {round(at * piece.rate_hz)}) is {value}"
            )
        seconds += len(piece.samples) / piece.rate_hz
        yield piece


def _decoded(path: Path) -> Iterator[Piece]:
    """Yields the sound as it was recorded. Raises CliError when there is none, or when it is damaged."""
    try:
        with av.open(ffmpeg_name(path)) as container:
            if not container.streams.audio:
                raise CliError(f"{path} has no sound in it")
            frames = _frames(container, container.streams.audio[0])
            for (channels, rate_hz, *_), run in groupby(frames, _kind):
                for samples in _packed(run):
                    yield Piece(samples, channels, rate_hz)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror or error}") from error
    except av.error.FFmpegError as error:
        raise CliError(f"{path} cannot be read as sound: {error.strerror}; give WAV, MP3, FLAC, Ogg or a video") from error


def _kind(frame: av.AudioFrame) -> tuple[tuple[str, ...], int, str, str]:
    """Returns everything that may change midway: channels, rate, layout and format."""
    return tuple(channel.name for channel in frame.layout.channels), frame.sample_rate, frame.layout.name, frame.format.name


def _packed(frames: Iterable[av.AudioFrame]) -> Iterator[Samples]:
    """Yields frames of one kind as float32 [PIECE_SAMPLES, channels], the last with what is left.

    FFmpeg converts and joins them: PyAV crashes at more than eight planes.
    """
    convert = None
    for frame in chain(frames, [None]):  # None: no more
        if frame and not convert:
            convert = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate, frame_size=PIECE_SAMPLES)
        for packed in convert.resample(frame) if convert else ():
            yield np.asarray(packed.to_ndarray(), np.float32).reshape(-1, packed.layout.nb_channels)


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
    """Yields decoded frames. Damaged ones are left out, as players do."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue
