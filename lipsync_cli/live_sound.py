"""Speech as it comes: from a file, from standard input, from a microphone. All as float32 at 16 kHz."""

from __future__ import annotations

import queue
import sys
import wave
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np

from lipsync_cli.failures import CliError, complain
from lipsync_cli.mixing import Samples
from lipsync_cli.recording import Speech, opened_recording, resampled
from shared_proto.timing import FRAME_RATE, SAMPLE_RATE_HZ

STANDARD_INPUT = "-"
MICROPHONE = "mic"
_INT16_SCALE = np.float32(1 / 32768)
_PIECE_S = 0.04
_NO_LIBRARY = "the microphone needs the Python package sounddevice, which is not installed: pip install sounddevice"


@dataclass(frozen=True)
class LiveSound:
    """Pieces of speech, float32 [samples] at 16 kHz."""

    pieces: Iterator[Speech]
    is_live: bool
    """Comes from somebody who speaks now: Ctrl-C ends it, and what was said is shown to its end."""


def opened_sound(audio: str, *, raw_rate_hz: int) -> AbstractContextManager[LiveSound]:
    """Opens a file, "-" for standard input, or "mic". `raw_rate_hz` is that of input that is no WAV. Raises CliError."""
    if audio == STANDARD_INPUT:
        return _standard_input(sys.stdin.buffer, raw_rate_hz)
    return _microphone() if audio == MICROPHONE else _file(Path(audio))


@contextmanager
def _file(path: Path) -> Iterator[LiveSound]:
    with opened_recording(path) as recording:
        for warning in recording.warnings:
            complain(f"warning: {warning}")
        yield LiveSound(recording.speech_of(recording.read()), is_live=False)


@contextmanager
def _standard_input(stream: BinaryIO, raw_rate_hz: int) -> Iterator[LiveSound]:
    head = stream.read(4)
    if not head:
        raise CliError("standard input is empty: send WAV, or raw int16 in the rate that --rate says")
    blocks, rate_hz = _wav(stream, head) if head == b"RIFF" else (_raw(stream, head), raw_rate_hz)
    yield LiveSound((block[:, 0] for block in resampled(blocks, rate_hz, SAMPLE_RATE_HZ)), is_live=True)


def _raw(stream: BinaryIO, head: bytes) -> Iterator[Samples]:
    """Yields int16 little endian as it comes. A last byte that is half a sample is left out."""
    read_some: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    waiting = head
    while True:
        whole = len(waiting) - len(waiting) % 2
        if whole:
            yield (np.frombuffer(waiting[:whole], "<i2") * _INT16_SCALE)[:, None]
        more = read_some(1 << 14)
        if not more:
            return
        waiting = waiting[whole:] + more


def _wav(stream: BinaryIO, head: bytes) -> tuple[Iterator[Samples], int]:
    try:
        sound = wave.Wave_read(cast("IO[bytes]", _Rejoined(head, stream)))
    except (wave.Error, EOFError) as error:
        raise CliError(f"the WAV header on standard input cannot be read: {str(error) or 'it ends too early'}") from None
    if sound.getsampwidth() != 2:
        raise CliError(f"standard input is WAV with {8 * sound.getsampwidth()} bits a sample; send 16 bits, or a file by name")
    return _wav_blocks(sound), sound.getframerate()


def _wav_blocks(sound: wave.Wave_read) -> Iterator[Samples]:
    count, channels = max(1, round(sound.getframerate() * _PIECE_S)), sound.getnchannels()
    while data := sound.readframes(count):
        whole = len(data) - len(data) % (2 * channels)
        samples = np.frombuffer(data[:whole], "<i2").reshape(-1, channels) * _INT16_SCALE
        yield samples.mean(axis=1, keepdims=True, dtype=np.float32)


class _Rejoined:
    """A stream whose first bytes were read already. It cannot seek."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def read(self, count: int = -1) -> bytes:
        """Reads as a file does."""
        head, self._head = self._head, b""
        if 0 <= count < len(head):
            head, self._head = head[:count], head[count:]
        return head + self._stream.read(count - len(head) if count >= 0 else -1)

    def close(self) -> None:
        """Does nothing: the stream is not its own."""


def _endless(heard: queue.SimpleQueue[Speech]) -> Iterator[Speech]:
    while True:
        yield heard.get()


@contextmanager
def _microphone() -> Iterator[LiveSound]:
    try:
        import sounddevice  # type: ignore[import-not-found,unused-ignore]  # optional, and without types
    except ModuleNotFoundError:
        raise CliError(_NO_LIBRARY) from None
    except OSError as error:
        raise CliError(f"the microphone cannot be used: {error}") from None
    heard: queue.SimpleQueue[Speech] = queue.SimpleQueue()

    def hear(samples: Samples, *_: object) -> None:
        heard.put(samples[:, 0].copy())

    try:
        microphone = sounddevice.InputStream(
            samplerate=SAMPLE_RATE_HZ, blocksize=SAMPLE_RATE_HZ // FRAME_RATE, channels=1, dtype="float32", callback=hear
        )
    except sounddevice.PortAudioError as error:
        raise CliError(f"the microphone cannot be used: {error}") from None
    with microphone:
        yield LiveSound(_endless(heard), is_live=True)
