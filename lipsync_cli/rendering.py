"""`lipsync render`: writes a film of an avatar that speaks a recording, or its own clip by its stored features."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Literal

from avatar_tools.progress import Progress
from lipsync_cli.failures import CliError, answered, complain
from lipsync_cli.files import replacing, write_png
from lipsync_cli.movie import Picture, decode_jpeg, write_movie
from lipsync_cli.near_names import refused, there_are
from lipsync_cli.recording import Recording, Track, opened_recording
from lipsync_cli.speaker import Speaker
from lipsync_cli.strip import Box, Strip
from lipsync_cli.unit_movie import Unit, write_units
from lipsync_client import (
    Batch,
    Client,
    Frame,
    LipsyncError,
    Quality,
    SessionEvent,
    Timings,
    TlsOptions,
    frame_count,
)
from shared_proto.timing import FRAME_RATE, SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Job:
    """A film to render. `face` is the part of the pictures that the strip shows; None shows whole pictures."""

    avatar: str
    audio: Path | None
    """The speech. None renders from the avatar's stored features, without a sound track."""
    out: Path
    frames: int | None = None
    """The length of a film from stored features. None means that of the avatar's clip."""
    server: str = "localhost:50052"
    quality: Quality | None = None
    output: Literal["jpeg", "h264"] = "jpeg"
    """The form in which frames come. H.264 goes into the film as it is; of speech alone, and without a strip."""
    tls: TlsOptions | None = None
    api_key: str | None = field(default=None, repr=False)
    strip: Path | None = None
    face: Box | None = None


@dataclass(frozen=True)
class Rendered:
    """The figures of a render. `first_frame_s` is the time from the first request to the first frame, `seconds` to the end."""

    frames: int
    clip_s: float
    first_frame_s: float
    seconds: float
    server: Timings

    def rows(self) -> list[tuple[str, str]]:
        """Returns the rows of the table of times; those of a server that told them."""
        per_frame = 1 / max(self.frames, 1)
        rows = [
            ("clip", f"{self.clip_s:.2f} s, {self.frames} frames"),
            ("first frame", f"{self.first_frame_s * 1000:.0f} ms"),
            ("total", f"{self.seconds:.2f} s"),
            ("frames/s", f"{self.frames / self.seconds:.1f} ({self.clip_s / self.seconds:.1f}x real time)"),
        ]
        if self.server == Timings():
            return rows
        return [
            *rows,
            ("inference", f"{self.server.inference_ms * per_frame:.2f} ms a frame"),
            ("composite", f"{self.server.composite_ms * per_frame:.2f} ms a frame"),
            ("audio", f"{self.server.audio_ms * per_frame:.2f} ms a frame"),
            ("loading", f"{self.server.load_ms:.0f} ms"),
        ]


def render(job: Job, report: Progress) -> Rendered:
    """Renders `job` and reports frames as they are written. Raises CliError, and then leaves no part of a file."""
    with ExitStack() as stack:
        recording = stack.enter_context(opened_recording(job.audio)) if job.audio else None
        for warning in recording.warnings if recording else ():
            complain(f"warning: {warning}")
        for path in filter(None, (job.out, job.strip)):
            path.parent.mkdir(parents=True, exist_ok=True)
        client = stack.enter_context(_client(job))
        partial = stack.enter_context(replacing(job.out))
        total = frame_count(recording.speech_samples, SAMPLE_RATE_HZ) if recording else job.frames or _clip_frames(client, job)
        receiver = Receiver(client, job, report, total)
        if job.output == "h264":
            assert recording
            _write_units(client, job, recording, receiver, partial)
        else:
            batches, track = _film(client, job, recording, receiver)
            write_movie(partial, receiver.pictures(batches), track)
        seconds = time.perf_counter() - receiver.started
    if job.strip:
        write_png(job.strip, receiver.strip.draw())
    clip_s = recording.seconds if recording else total / FRAME_RATE
    return Rendered(receiver.frames, clip_s, receiver.first_frame_s, seconds, receiver.server)


def _film(client: Client, job: Job, recording: Recording | None, receiver: Receiver) -> tuple[Iterator[Batch], Track | None]:
    """Returns the batches of the film, which ask for frames as they are read, and its sound track."""
    if recording is None:
        return client.stored_batches(job.avatar, receiver.total, quality=job.quality), None
    # Each piece is decoded once, for both; the sound track holds it until the server has made its frames.
    for_server, for_track = tee(recording.read())
    speech = receiver.strip.with_sound(recording.speech_of(for_server))
    return client.batches(job.avatar, speech, quality=job.quality), recording.track_of(for_track)


def _write_units(client: Client, job: Job, recording: Recording, receiver: Receiver, path: Path) -> None:
    """Writes the access units of a session that says the recording as fast as its frames are made."""
    with client.session(job.avatar, pacing="fast", output="h264", quality=job.quality) as session:
        speaker = Speaker(session, recording.speech_of(recording.read()))
        try:
            write_units(path, receiver.units(session), recording.track())
        finally:
            speaker.raise_error()


def _client(job: Job) -> Client:
    try:
        return Client(job.server, tls=job.tls, api_key=job.api_key)
    except ValueError as error:
        raise CliError(f"TLS: {error}") from None


def _clip_frames(client: Client, job: Job) -> int:
    """Asks for the number of frames of the avatar's clip. Raises CliError."""
    try:
        avatars = client.list_avatars()
    except LipsyncError as error:
        raise CliError(answered(job.server, error)) from error
    found = next((avatar for avatar in avatars if avatar.id == job.avatar), None)
    if found is None:
        raise CliError(f"{job.server} has no avatar {job.avatar!r}{there_are(job.avatar, [each.id for each in avatars])}")
    if found.error:
        raise CliError(f"{job.server} cannot serve {job.avatar!r}: {found.error}")
    if not found.frame_count:
        raise CliError(f"{job.server} does not say how many frames {job.avatar!r} has; give --frames")
    return found.frame_count


class Receiver:
    """Takes the frames of a film, and collects its figures and its strip."""

    def __init__(self, client: Client, job: Job, report: Progress, total: int) -> None:
        self._client = client
        self._job = job
        self._report = report
        self.total = total
        self.strip = Strip(total if job.strip else 0, face=job.face)
        self.started = time.perf_counter()
        self.first_frame_s = 0.0
        self.frames = 0
        self.server = Timings()

    def pictures(self, batches: Iterable[Batch]) -> Iterator[Picture]:
        """Yields the decoded frames in order. Raises CliError."""
        self._report("frames", 0, self.total)
        try:
            for batch in batches:
                self.server += batch.timings
                for jpeg in batch.frames:
                    picture = decode_jpeg(jpeg)
                    self.strip.add_frame(self.frames, picture)
                    self._note()
                    yield picture
        except LipsyncError as error:
            raise refused(self._client, self._job.server, self._job.avatar, error) from error

    def units(self, events: Iterable[SessionEvent]) -> Iterator[Unit]:
        """Yields the access units of a session in order. Raises CliError."""
        self._report("frames", 0, self.total)
        try:
            for event in events:
                if isinstance(event, Frame):
                    self._note()
                    yield Unit(event.picture, event.key_frame)
        except LipsyncError as error:
            raise refused(self._client, self._job.server, self._job.avatar, error) from error

    def _note(self) -> None:
        if self.frames == 0:
            self.first_frame_s = time.perf_counter() - self.started
        self.frames += 1
        self._report("frames", self.frames, self.total)
