"""Speaks into a live session while its frames are read."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from lipsync_client import LipsyncError, PushedSound, Session


class Speaker:
    """Pushes sound on a thread of its own, and closes the session after it."""

    def __init__(self, session: Session, pieces: Iterable[PushedSound]) -> None:
        self._error: Exception | None = None
        self._session = session
        self._pieces = pieces
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
            for piece in self._pieces:
                self._session.push(piece)
            self._session.close()
        except LipsyncError:
            pass  # whoever reads the events has it too
        except Exception as error:
            if not self._stopping:  # else the session is closed
                self._error = error
                self._session.close()
