"""`lipsync talk`: streams speech to an avatar in a live session, shows how it goes, and writes the film of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    raw_rate_hz: int = SAMPLE_RATE_HZ
    session_id: str = ""


def talk(job: TalkJob, show: Show) -> TalkFigures:
    """Lets the avatar say it, and shows figures as frames come. Raises CliError, and then leaves no part of a film."""
    with opened_sound(job.audio, raw_rate_hz=job.raw_rate_hz) as sound, live_film(job.out) as film, _client(job) as client:
        figures = TalkFigures(time.monotonic())
        own = client.with_metadata(session_id=job.session_id)
        with own.session(job.avatar, **job.options) as session:
            speaker = _Speaker(session, sound)
            while (event := _next(session, speaker, job)) is not None:
                figures.note(event, time.monotonic())
                _tell(event)
                if isinstance(event, Frame):
                    show(figures)
                    if film:
                        film.add(event)
        speaker.join()
    return figures


def _next(session: Session, speaker: _Speaker, job: TalkJob) -> SessionEvent | None:
    """Returns the next event; None at the end. Ctrl-C ends the sound of a microphone, and the rest of it is still shown."""
    while True:
        try:
            return next(session, None)
        except KeyboardInterrupt:
            if not speaker.stop():
                raise
        except LipsyncError as error:
            raise speaker.error or CliError(f"{job.server} answered {error}") from error


def _tell(event: SessionEvent) -> None:
    match event:
        case GoingAway():
            complain(f"the server goes away ({event.reason}); the session goes on elsewhere")
        case Resumed():
            complain(f"resumed after {event.seconds:.2f} s: {event.cause}")


def _client(job: TalkJob) -> Client:
    try:
        return Client(job.server, tls=job.tls)
    except ValueError as error:
        raise CliError(f"TLS: {error}") from None


class _Speaker:
    """Pushes sound on a thread of its own, and closes the session after it."""

    def __init__(self, session: Session, sound: LiveSound) -> None:
        self.error: Exception | None = None
        self._session = session
        self._sound = sound
        self._stopping = False
        # A daemon: reading standard input or a microphone may not end.
        self._thread = threading.Thread(target=self._speak, name="speaker", daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """Ends a sound that has no end of its own. Returns False if it has one, or was stopped already."""
        if self._stopping or not self._sound.is_endless:
            return False
        self._stopping = True
        return True

    def join(self) -> None:
        """Waits for its end. Raises what went wrong with the sound."""
        self._thread.join()
        if self.error:
            raise self.error

    def _speak(self) -> None:
        try:
            for piece in self._sound.pieces:
                self._session.push(piece)
                if self._stopping:
                    break
            self._session.close()
        except LipsyncError:
            pass  # whoever reads the events has it too
        except Exception as error:
            self.error = error
            self._session.close()
