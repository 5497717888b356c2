"""Speaks text with espeak-ng, a program of its own. The text goes to its standard input, never into its arguments."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import struct
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
import numpy as np
import soxr
from numpy.typing import NDArray

from gateway_service.settings import SpeechSection

Samples = NDArray[np.int16]

# Sound is read in pieces of at most so much.
PIECE_BYTES = 8192
_RIFF = struct.Struct("<4sI4s")
_CHUNK = struct.Struct("<4sI")
_FORMAT = struct.Struct("<HHIIHH")
_PCM, _MONO, _BITS = 1, 1, 16
# Its last words, for a message.
_LONGEST_REASON = 200


class SpeechFailed(Exception):
    """A text cannot be spoken. `code` is a gRPC status, the text fit for callers."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Speaker:
    """Speaks texts, each with a process of its own."""

    def __init__(self, section: SpeechSection) -> None:
        self._section = section
        self.program = shutil.which(section.command) if section.command else None
        """Its path; None where it is not installed, or switched off."""

    def problem(self, text: str) -> SpeechFailed | None:
        """Returns the reason against a text that is too long."""
        if len(text) <= (most := self._section.max_characters):
            return None
        return SpeechFailed(grpc.StatusCode.INVALID_ARGUMENT, f"the text has {len(text)} characters; send at most {most}")

    async def speak(self, text: str, *, voice: str | None, words_per_minute: int, rate: int) -> AsyncGenerator[Samples, None]:
        """Yields the sound of a text as it is made: int16 [samples] at `rate` Hz, pieces of any length.

        Raises SpeechFailed. Closing the generator ends the process.
        """
        if self.program is None:
            raise SpeechFailed(grpc.StatusCode.UNIMPLEMENTED, "this gateway speaks no text: espeak-ng is not installed")
        if problem := self.problem(text):
            raise problem
        arguments = ("--stdout", "--stdin", "-b", "1", "-v", voice or self._section.voice, "-s", str(words_per_minute))
        async with _running(self.program, *arguments) as process:
            try:
                async for samples in self._sound(process, text, rate):
                    yield samples
            except TimeoutError:
                limit = self._section.timeout_seconds
                raise SpeechFailed(grpc.StatusCode.DEADLINE_EXCEEDED, f"espeak-ng made no sound for {limit:g} s") from None

    async def _sound(self, process: Process, text: str, rate: int) -> AsyncIterator[Samples]:
        limit_s = self._section.timeout_seconds
        assert process.stdin
        assert process.stdout
        async with asyncio.timeout(limit_s):
            process.stdin.write(text.encode())
            with suppress(ConnectionError):  # it has ended: its exit tells why
                await process.stdin.drain()
            process.stdin.close()
            try:
                own_rate = await _read_header(process.stdout)
            except asyncio.IncompleteReadError:
                raise await _failure(process) from None
        resampled = _Resampled(own_rate, rate)
        while True:
            async with asyncio.timeout(limit_s):
                data = await process.stdout.read(PIECE_BYTES)
            samples = resampled.add(data)
            if len(samples):
                yield samples
            if not data:
                break
        async with asyncio.timeout(limit_s):
            if await process.wait():
                raise await _failure(process)


@asynccontextmanager
async def _running(program: str, *arguments: str) -> AsyncIterator[Process]:
    """Runs a program during the block, and ends it."""
    try:
        process = await asyncio.create_subprocess_exec(
            program, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
    except OSError as error:
        text = f"espeak-ng cannot be started: {error.strerror}"
        raise SpeechFailed(grpc.StatusCode.UNAVAILABLE, text) from None
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started, which would hold its pipes open
        # Its pipes are closed once it is gone and they are read.
        await asyncio.shield(process.communicate())


async def _failure(process: Process) -> SpeechFailed:
    """Says why a program ended without sound."""
    assert process.stderr
    words = (await process.stderr.read()).decode("utf-8", "replace").strip()
    if "voice does not exist" in words:
        return SpeechFailed(grpc.StatusCode.INVALID_ARGUMENT, "there is no such voice; `espeak-ng --voices` lists them")
    return SpeechFailed(grpc.StatusCode.UNAVAILABLE, f"espeak-ng failed: {words[-_LONGEST_REASON:] or 'it gave no reason'}")


async def _read_header(stream: asyncio.StreamReader) -> int:
    """Reads a WAV file up to its samples. Returns their rate in Hz. A program that writes to a pipe cannot know their number."""
    riff, _, wave = _RIFF.unpack(await stream.readexactly(_RIFF.size))
    rate = 0
    while (riff, wave) == (b"RIFF", b"WAVE"):
        name, size = _CHUNK.unpack(await stream.readexactly(_CHUNK.size))
        if name == b"data" and rate:
            return rate
        content = await stream.readexactly(min(size, PIECE_BYTES))
        if name == b"fmt ":
            kind, channels, rate, _, _, bits = _FORMAT.unpack(content[: _FORMAT.size])
            if (kind, channels, bits) != (_PCM, _MONO, _BITS):
                break
    raise SpeechFailed(grpc.StatusCode.INTERNAL, "espeak-ng gave no WAV file of 16-bit mono sound")


class _Resampled:
    """Turns bytes of int16 samples at one rate into samples at another, piece by piece."""

    def __init__(self, own_rate: int, rate: int) -> None:
        self._stream = None if own_rate == rate else soxr.ResampleStream(own_rate, rate, 1, dtype="float32")
        self._rest = b""

    def add(self, data: bytes) -> Samples:
        """Takes a piece, of any length; an empty one is the end. Returns the samples that are finished."""
        whole = self._rest + data
        end = len(whole) - len(whole) % 2
        self._rest = whole[end:]
        samples: Samples = np.frombuffer(whole[:end], "<i2")
        if self._stream is None:
            return samples
        made = self._stream.resample_chunk(samples.astype(np.float32), last=not data)
        rounded: Samples = np.clip(np.rint(made), -32768, 32767).astype(np.int16)
        return rounded
