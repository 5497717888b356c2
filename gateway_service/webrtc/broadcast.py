"""Encodes what viewers watch, once for all of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

from gateway_service.watching import Watcher
from gateway_service.webrtc.settings import WebrtcSection
from gateway_service.webrtc.sound import SoundEncoder
from gateway_service.webrtc.timeline import MediaTimeline
from gateway_service.webrtc.units import MediaUnit, UnitQueue
from gateway_service.webrtc.video import VideoEncoder
from lipsync_client import Frame
from service_kit.clock import Clock

# Viewers who lose packets ask for key pictures, which are large: all of them together get one in so many pictures.
FRAMES_BETWEEN_KEYS = 12
# Frames that may wait to be encoded. While more than a few wait, only their sound is.
KEPT_FRAMES, MOST_BEHIND = 25, 3

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Source of frames. `key` tells sources apart, `rate` is of their sound, in Hz."""

    key: Hashable
    rate: int
    watched: Callable[[int], AbstractContextManager[Watcher]]
    """Watches during the block; the watcher keeps so many frames."""
    always_shows: bool
    """Frames come without a pause, so who wishes to watch may wait for the first one."""


class Viewing:
    """One viewer's share of a broadcast."""

    def __init__(self, broadcast: Broadcast) -> None:
        self.video = UnitQueue(broadcast.request_key)
        self.audio = UnitQueue(_nothing)
        self.unix_s = broadcast.unix_s
        self.is_over = False
        """Nothing follows."""

    def end(self) -> None:
        """Says that nothing follows."""
        self.is_over = True
        self.video.end()
        self.audio.end()


class Broadcast:
    """The encoded media of one source."""

    def __init__(self, source: Source, section: WebrtcSection, pool: ThreadPoolExecutor, clock: Clock) -> None:
        self._source = source
        self._pool = pool
        self._clock = clock
        self._viewings: set[Viewing] = set()
        self._timeline = MediaTimeline()
        self._video = VideoEncoder(section.video_quality)
        self._sound = SoundEncoder(source.rate, section.audio_kbps)
        self._key_wanted = True
        self._since_key = FRAMES_BETWEEN_KEYS
        self._begin_unix_s = 0.0
        self._to_be_heard: asyncio.Queue[tuple[float, list[MediaUnit]]] = asyncio.Queue()
        """The sound of frames, and when each was there."""
        self._running: asyncio.Task[None] | None = None
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done with the first frame, or with the reason why there is none."""
        self.begun.add_done_callback(_retrieve)

    def request_key(self) -> None:
        """Asks for a key picture soon."""
        self._key_wanted = True

    def unix_s(self, media_us: int) -> float:
        """Returns the time of the day at which a moment of the media was current."""
        return self._begin_unix_s + media_us / 1e6

    @contextmanager
    def viewed(self) -> Iterator[Viewing]:
        """Views it during the block. It runs as long as somebody does."""
        viewing = Viewing(self)
        self._viewings.add(viewing)
        self._running = self._running or asyncio.create_task(self._run())
        try:
            yield viewing
        finally:
            self._viewings.discard(viewing)
            if not self._viewings:
                self._running.cancel()

    @property
    def is_over(self) -> bool:
        """True when nothing follows."""
        return self._running is not None and (not self._viewings or self._running.done())

    async def _run(self) -> None:
        pacing = asyncio.create_task(self._pace_sound())
        try:
            with self._source.watched(KEPT_FRAMES) as watcher:
                while (frame := await watcher.next()) is not None:
                    await self._show(frame, skip_picture=watcher.waiting > MOST_BEHIND)
                    if not self.begun.done():
                        self.begun.set_result(None)
        except Exception as error:
            if self.begun.done():
                log.warning("what is watched over WebRTC has ended: %s", error)
            else:
                self.begun.set_exception(error)
        finally:
            pacing.cancel()
            for viewing in self._viewings:
                viewing.end()

    async def _pace_sound(self) -> None:
        """Sends the pieces of a frame's sound one after the other, as they are to be heard.

        Players keep more of sound that comes two pieces at a time, and so let it be heard later than the picture.
        """
        while True:
            came_s, units = await self._to_be_heard.get()
            for unit in units:
                after_s = (unit.media_us - units[0].media_us) / 1e6
                await self._clock.sleep(max(0.0, came_s + after_s - self._clock.now()))
                for viewing in self._viewings:
                    viewing.audio.give(unit)

    async def _show(self, frame: Frame, *, skip_picture: bool) -> None:
        now_s = self._clock.now()
        media_us = self._timeline.media_us(frame.pts_us, now_s)
        if not self._begin_unix_s:
            self._begin_unix_s = time.time()
        self._since_key += 1
        key = self._key_wanted and self._since_key >= FRAMES_BETWEEN_KEYS
        loop = asyncio.get_running_loop()
        picture = None if skip_picture else frame.picture
        sound, video = await loop.run_in_executor(self._pool, self._encode, frame, picture, media_us, key)
        if video and video.is_key:
            self._key_wanted, self._since_key = False, 0
        self._to_be_heard.put_nowait((self._clock.now(), sound))
        if video:
            for viewing in self._viewings:
                viewing.video.give(video)

    def _encode(self, frame: Frame, picture: bytes | None, media_us: int, key: bool) -> tuple[list[MediaUnit], MediaUnit | None]:
        sound = self._sound.encode(frame.audio, media_us)
        return sound, self._video.encode(picture, media_us, key=key) if picture else None


class Broadcasts:
    """All that is watched over WebRTC. Close it."""

    def __init__(self, section: WebrtcSection, clock: Clock, *, threads: int) -> None:
        self._section = section
        self._clock = clock
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="webrtc-encode")
        self._broadcasts: dict[Hashable, Broadcast] = {}

    @contextmanager
    def viewed(self, source: Source) -> Iterator[tuple[Broadcast, Viewing]]:
        """Views a source during the block, with all others who do."""
        broadcast = self._broadcasts.get(source.key)
        if broadcast is None or broadcast.is_over:
            broadcast = self._broadcasts[source.key] = Broadcast(source, self._section, self._pool, self._clock)
        try:
            with broadcast.viewed() as viewing:
                yield broadcast, viewing
        finally:
            if broadcast.is_over and self._broadcasts.get(source.key) is broadcast:
                del self._broadcasts[source.key]

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _nothing() -> None:
    """Every piece of sound can be decoded without those before it."""


def _retrieve(future: asyncio.Future[None]) -> None:
    """Takes the error, which those who wait have got, or nobody wants."""
    with suppress(asyncio.CancelledError):
        future.exception()
