"""Writes the film of a live session while it goes on, on a thread of its own: encoding must not keep the session waiting."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from lipsync_cli.files import replacing
from lipsync_cli.mixing import Samples
from lipsync_cli.movie import decode_jpeg, write_movie
from lipsync_cli.recording import Track
from lipsync_cli.unit_movie import Unit, write_units
from lipsync_client import Frame
from shared_proto.timing import SAMPLE_RATE_HZ, SAMPLES_A_FRAME

# A minute: a machine that cannot encode in real time makes the session wait then, and loses nothing.
_MOST_WAITING = 1500


class LiveFilm:
    """Takes the frames of a film, each with its own sound, or silence."""

    def __init__(self, path: Path, *, is_h264: bool) -> None:
        self._path = path
        self._is_h264 = is_h264
        self._frames: queue.Queue[Frame | None] = queue.Queue(_MOST_WAITING)
        self._sound: deque[Samples] = deque()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write, name="film")
        self._thread.start()

    def add(self, frame: Frame) -> None:
        """Appends a frame. Raises CliError if the film cannot be written."""
        while not self._error:
            try:
                return self._frames.put(frame, timeout=0.1)
            except queue.Full:
                continue
        raise self._error

    def finish(self) -> None:
        """Writes what is waiting, and the end. Raises CliError if the film cannot be written."""
        self.stop()
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Ends the thread after what is waiting."""
        while self._thread.is_alive():
            try:
                self._frames.put(None, timeout=0.1)
            except queue.Full:
                continue
            self._thread.join()

    def _write(self) -> None:
        try:
            sound = Track(self._pieces(), 1, SAMPLE_RATE_HZ)
            if self._is_h264:
                write_units(self._path, (Unit(frame.picture, frame.key_frame) for frame in self._taken()), sound)
            else:
                write_movie(self._path, (decode_jpeg(frame.picture) for frame in self._taken()), sound)
        except Exception as error:  # raised where frames are added
            self._error = error

    def _taken(self) -> Iterator[Frame]:
        for frame in iter(self._frames.get, None):
            sound = np.zeros((SAMPLES_A_FRAME, 1), np.float32)
            if frame.audio is not None:
                sound[: len(frame.audio), 0] = frame.audio
            self._sound.append(sound)
            yield frame

    def _pieces(self) -> Iterator[Samples]:
        """Yields the sound of each picture after it was taken: the film asks for no more."""
        while True:
            yield self._sound.popleft()


@contextmanager
def live_film(path: Path | None, *, is_h264: bool) -> Iterator[LiveFilm | None]:
    """Gives a film that is whole when the block succeeds, and leaves nothing behind if not; None without a path."""
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        film = LiveFilm(stack.enter_context(replacing(path)), is_h264=is_h264)
        stack.callback(film.stop)
        yield film
        film.finish()
