"""`lipsync talk`: streams speech to an avatar in a live session, shows how it goes, and writes the film of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from lipsync_cli.failures import CliError, complain
from lipsync_cli.live_film import LiveFilm, live_film
from lipsync_cli.live_sound import opened_sound
from lipsync_cli.near_names import refused
from lipsync_cli.speaker import Speaker
from lipsync_cli.talk_figures import TalkFigures
from lipsync_client import Client, Frame, GoingAway, LipsyncError, Resumed, Session, SessionEvent, SessionOptions, TlsOptions
from shared_proto.timing import SAMPLE_RATE_HZ

Show = Callable[[TalkFigures], None]

# So long a server without room is asked: a session that ended counts for two seconds more. Whoever waits is to read why.
ROOM_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class TalkJob:
    """A conversation with one voice."""

    avatar: str
    audio: str
    """A file, "-" or "mic"."""
    options: SessionOptions
    out: Path | None = None
    server: str = "localhost:50052"
    tls: TlsOptions | None = None
    api_key: str | None = field(default=None, repr=False)
    raw_rate_hz: int = SAMPLE_RATE_HZ
    session_id: str = ""


def talk(job: TalkJob, show: Show) -> TalkFigures:
    """Lets the avatar say it, and shows figures as frames come. Raises CliError, and then leaves no part of a film."""
    with (
        opened_sound(job.audio, raw_rate_hz=job.raw_rate_hz) as sound,
        _film(job) as film,
        _client(job) as client,
    ):
        figures = TalkFigures(time.monotonic())
        own = client.with_metadata(session_id=job.session_id)
        with own.session(job.avatar, admission_timeout=ROOM_TIMEOUT_S, **job.options) as session:
            speaker = Speaker(session, sound.pieces)
            with _ended_by_ctrl_c(speaker) if sound.is_live else nullcontext():
                for event in _events(session, speaker, client, job):
                    figures.note(event, time.monotonic())
                    _tell(event)
                    if isinstance(event, Frame):
                        show(figures)
                        if film:
                            film.add(event)
            speaker.raise_error()
    return figures


def _events(session: Session, speaker: Speaker, client: Client, job: TalkJob) -> Iterator[SessionEvent]:
    try:
        yield from session
    except LipsyncError as error:
        speaker.raise_error()
        raise refused(client, job.server, job.avatar, error) from error


@contextmanager
def _ended_by_ctrl_c(speaker: Speaker) -> Iterator[None]:
    """Lets the first Ctrl-C end the sound; a second one interrupts the command as it does others."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        speaker.stop()

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _tell(event: SessionEvent) -> None:
    match event:
        case GoingAway():
            complain(f"the server goes away ({event.reason}); the session goes on elsewhere")
        case Resumed():
            complain(f"resumed after {event.seconds:.2f} s: {event.cause}")


def _film(job: TalkJob) -> AbstractContextManager[LiveFilm | None]:
    return live_film(job.out, is_h264=job.options.get("output") == "h264")


def _client(job: TalkJob) -> Client:
    try:
        return Client(job.server, tls=job.tls, api_key=job.api_key)
    except ValueError as error:
        raise CliError(f"TLS: {error}") from None
