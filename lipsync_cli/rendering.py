"""`lipsync render`: a recording and an avatar in, an MP4 out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lipsync_cli.failures import CliError
from lipsync_cli.files import replacing, write_png
from lipsync_cli.movie import FRAME_RATE, Picture, decode_jpeg, write_movie
from lipsync_cli.recording import SPEECH_RATE_HZ, read_recording
from lipsync_cli.screen import Report
from lipsync_cli.strip import Box, draw_strip, strip_frames
from lipsync_client import Client, LipsyncError, Quality, Timings, TlsOptions, frame_count


@dataclass(frozen=True)
class Job:
    """What to render. `face` is the part of the pictures that the strip shows; None shows all of them."""

    avatar: str
    audio: Path
    out: Path
    server: str = "localhost:50052"
    quality: Quality | None = None
    tls: TlsOptions | None = None
    strip: Path | None = None
    face: Box | None = None


@dataclass(frozen=True)
class Rendered:
    """How it went. `first_frame_s` is from the first request to its first picture, `seconds` from there to the whole file."""

    frames: int
    clip_s: float
    first_frame_s: float
    seconds: float
    server: Timings

    def rows(self) -> list[tuple[str, str]]:
        """For the table of times."""
        per_frame = 1 / max(self.frames, 1)
        return [
            ("clip", f"{self.clip_s:.2f} s, {self.frames} frames"),
            ("first frame", f"{self.first_frame_s * 1000:.0f} ms"),
            ("total", f"{self.seconds:.2f} s"),
            ("frames/s", f"{self.frames / self.seconds:.1f} ({self.clip_s / self.seconds:.1f}x real time)"),
            ("inference", f"{self.server.inference_ms * per_frame:.2f} ms a frame"),
            ("composite", f"{self.server.composite_ms * per_frame:.2f} ms a frame"),
            ("audio", f"{self.server.audio_ms * per_frame:.2f} ms a frame"),
            ("loading", f"{self.server.load_ms:.0f} ms"),
        ]


def parse_quality(text: str | None) -> Quality | None:
    """A number or a preset's name. Raises ValueError for anything else."""
    if text is None or text in {"low", "medium", "high"}:
        return cast("Quality | None", text)
    if text.isdecimal() and 1 <= int(text) <= 100:
        return int(text)
    raise ValueError(f"{text!r} is not a quality; expected 1 to 100, low, medium or high")


def render(job: Job, report: Report) -> Rendered:
    """Renders `job`, reporting frames as they are written. Raises CliError; leaves no half file."""
    recording = read_recording(job.audio)
    speech = recording.speech()
    total = frame_count(speech.size, SPEECH_RATE_HZ)
    for path in filter(None, (job.out, job.strip)):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _client(job) as client, replacing(job.out) as partial:
        reception = Reception(job, report, total)
        write_movie(partial, reception.pictures(client, speech), recording)
        seconds = time.perf_counter() - reception.started
    if job.strip:
        write_png(job.strip, draw_strip(reception.tiles, speech, face=job.face))
    return Rendered(reception.frames, recording.seconds, reception.first_frame_s, seconds, reception.server)


def _client(job: Job) -> Client:
    try:
        return Client(job.server, tls=job.tls)
    except ValueError as error:
        raise CliError(f"TLS: {error}") from None


class Reception:
    """Takes the pictures of a clip from the server and keeps account of them."""

    def __init__(self, job: Job, report: Report, total: int) -> None:
        self._job = job
        self._report = report
        self._total = total
        self._on_strip = set(strip_frames(total)) if job.strip else set()
        self.started = time.perf_counter()
        self.first_frame_s = 0.0
        self.frames = 0
        self.server = Timings()
        self.tiles: list[tuple[float, Picture]] = []

    def pictures(self, client: Client, speech: NDArray[np.float32]) -> Iterator[Picture]:
        """The decoded frames in order. Raises CliError."""
        self._report("frames", 0, self._total)
        try:
            for batch in client.batches(self._job.avatar, speech, quality=self._job.quality):
                self.server += batch.timings
                for jpeg in batch.frames:
                    yield self._received(decode_jpeg(jpeg))
        except LipsyncError as error:
            raise CliError(f"{self._job.server} answered {error}") from error

    def _received(self, picture: Picture) -> Picture:
        if self.frames == 0:
            self.first_frame_s = time.perf_counter() - self.started
        if self.frames in self._on_strip:
            self.tiles.append((self.frames / FRAME_RATE, picture))
        self.frames += 1
        self._report("frames", self.frames, self._total)
        return picture
