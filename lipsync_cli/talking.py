"""`lipsync talk`: streams speech to an avatar in a live session, shows how it goes, and writes the film of it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from lipsync_cli.failures import CliError, complain
from lipsync_cli.live_film import live_film
from lipsync_cli.live_sound import LiveSound, opened_sound
from lipsync_cli.talk_figures import TalkFigures
from lipsync_client import Client, Frame, GoingAway, LipsyncError, Resumed, Session, SessionEvent, SessionOptions, TlsOptions
from shared_proto.timing import SAMPLE_RATE_HZ

Show = Callable[[TalkFigures], None]


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
    with opened_sound(job.audio, raw_rate_hz=job.raw_rate_hz) as sound, live_film(job.out) as film, _client(job) as client:
        figures = TalkFigures(time.monotonic())
        own = client.with_metadata(session_id=job.session_id)
        with own.session(job.avatar, **job.options) as session:
            speaker = _Speaker(session, sound)
            with _ended_by_ctrl_c(speaker) if sound.is_live else nullcontext():
                for event in _events(session, speaker, job):
                    figures.note(event, time.monotonic())
                    _tell(event)
                    if isinstance(event, Frame):
                        show(figures)
                        if film:
                            film.add(event)
            speaker.raise_error()
    return figures


def _events(session: Session, speaker: _Speaker, job: TalkJob) -> Iterator[SessionEvent]:
    try:
        yield from session
    except LipsyncError as error:
        speaker.raise_error()
        raise CliError(f"{job.server} answered {error}") from error


@contextmanager
def _ended_by_ctrl_c(speaker: _Speaker) -> Iterator[None]:
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


def _client(job: TalkJob) -> Client:
    try:
        return Client(job.server, tls=job.tls, api_key=job.api_key)
    except ValueError as error:
        raise CliError(f"TLS: {error}") from None


class _Speaker:
    """Pushes sound on a thread of its own, and closes the session after it."""

    def __init__(self, session: Session, sound: LiveSound) -> None:
        self._error: Exception | None = None
        self._session = session
        self._sound = sound
        self._stopping = False
        # A daemon: reading standard input or a microphone may not end.
        self._thread = threading.Thread(target=self._speak, name="speaker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Closes the session, whatever the sound does. Not on the caller's thread, which may hold the session."""
        self._stopping = True
        threading.Thread(target=self._session.close, name="closer").start()

    def raise_error(self) -> None:
        """Raises what went wrong with the sound."""
        if self._error:
            raise self._error

    def _speak(self) -> None:
        try:
            for piece in self._sound.pieces:
                self._session.push(piece)
            self._session.close()
        except LipsyncError:
            pass  # whoever reads the events has it too
        except Exception as error:
            if not self._stopping:  # else the session is closed
                self._error = error
                self._session.close()
