"""All who watch over WebRTC, by their secrets."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256

from aiortc import RTCIceCandidate

from gateway_service.problems import problem_of
from gateway_service.webrtc.broadcast import Broadcasts, Source, Viewing
from gateway_service.webrtc.ice import IceServers
from gateway_service.webrtc.offers import MOST_CANDIDATES, Offer
from gateway_service.webrtc.peer import Peer
from gateway_service.webrtc.settings import WebrtcSection
from service_kit.clock import Clock
from service_kit.errors import ResourceExhausted

# Intervals of looks at a viewer who is connected.
_LOOK_S = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """A request to watch."""

    source: Source
    offer: Offer
    is_local: bool
    """The viewer is on this machine."""
    secret: str
    """The secret by which the viewer will be found."""
    places: Callable[[], ExitStack]
    """Takes what a viewer takes for as long as it watches. Raises Problem."""
    ending: asyncio.Event | None
    """Ends it when set; None: it ends with its source."""


class Viewer:
    """One who watches. `secret` names it in its address, `etag` its connection."""

    def __init__(self, wish: Wish, broadcasts: Broadcasts, servers: IceServers, section: WebrtcSection, clock: Clock) -> None:
        self.secret = wish.secret
        self.etag = secrets.token_hex(8)
        self.offer = wish.offer
        self._wish = wish
        self._broadcasts = broadcasts
        self._servers = servers
        self._section = section
        self._clock = clock
        self._peer: Peer | None = None
        self._candidates = wish.offer.candidates
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """The answer to the offer, or the reason why there is none."""
        self.running = asyncio.create_task(self._run())

    @property
    def peer(self) -> Peer:
        """Its connection, once there is an answer."""
        assert self._peer
        return self._peer

    async def add_candidates(self, found: Sequence[RTCIceCandidate]) -> None:
        """Tries more addresses of the viewer; of all that it names, so many as an offer may have."""
        taken = found[: max(0, MOST_CANDIDATES - self._candidates)]
        self._candidates += len(taken)
        await self.peer.add_candidates(taken)

    async def end(self) -> None:
        """Ends it."""
        self.running.cancel()
        await asyncio.wait([self.running])

    async def _run(self) -> None:
        try:
            with self._wish.places(), self._broadcasts.viewed(self._wish.source) as (broadcast, viewing):
                if self._wish.source.always_shows:
                    await broadcast.begun
                self._peer = Peer(
                    viewing, self._wish.offer, self._servers, self._section, self._clock, is_local=self._wish.is_local
                )
                try:
                    self.answer.set_result(await self._peer.answer())
                    log.info("a viewer over WebRTC ended: %s", await self._end(viewing))
                finally:
                    await asyncio.shield(self._peer.close())
        except Exception as error:
            if self.answer.done():
                log.info("a viewer over WebRTC ended: %s", problem_of(error).detail)
            else:
                self.answer.set_exception(error)
        finally:
            self.answer.cancel()

    async def _end(self, viewing: Viewing) -> str:
        """Waits for a reason to end, and returns it."""
        began_s = self._clock.now()
        while True:
            if self.peer.is_closed:
                return "the connection is closed"
            if viewing.is_over:
                return "nothing follows"
            if self._wish.ending and self._wish.ending.is_set():
                return "the gateway shuts down"
            if not self.peer.is_connected and self._clock.now() - began_s > self._section.connect_seconds:
                return "no connection came about"
            if self.peer.unheard_s > self._section.idle_seconds:
                return "it reported nothing"
            await self._clock.sleep(_LOOK_S)


class Viewers:
    """Lets viewers watch. Close it."""

    def __init__(self, section: WebrtcSection, servers: IceServers, clock: Clock) -> None:
        self._section = section
        self._servers = servers
        self._clock = clock
        self._broadcasts = Broadcasts(section, clock, threads=len(os.sched_getaffinity(0)))
        self._viewers: dict[bytes, Viewer] = {}
        """By digests of their secrets, so the time of a look-up tells nothing of a secret."""

    def __len__(self) -> int:
        return len(self._viewers)

    async def add(self, wish: Wish) -> Viewer:
        """Begins to show what is wished. Returns the viewer once there is an answer. Raises what the wish raises."""
        if len(self._viewers) >= self._section.max_viewers:
            raise ResourceExhausted("as many viewers watch over WebRTC as may")
        viewer = Viewer(wish, self._broadcasts, self._servers, self._section, self._clock)
        key = _digest(viewer.secret)
        self._viewers[key] = viewer
        viewer.running.add_done_callback(lambda _: self._viewers.pop(key))
        try:
            await asyncio.shield(viewer.answer)
        except BaseException:
            viewer.running.cancel()
            raise
        return viewer

    def find(self, secret: str) -> Viewer | None:
        """Returns the viewer with this secret, if it watches here."""
        return self._viewers.get(_digest(secret))

    async def close(self) -> None:
        """Ends all of them."""
        await asyncio.gather(*(viewer.end() for viewer in self._viewers.values()))
        self._broadcasts.close()


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
