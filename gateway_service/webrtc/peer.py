"""The connection to one viewer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceCandidate,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError

from gateway_service.webrtc.broadcast import Viewing
from gateway_service.webrtc.offers import Offer, invalid
from gateway_service.webrtc.sender import UnitSender, UnitTrack
from service_kit.clock import Clock

_CODECS = {"video": ("video/H264", "video/rtx"), "audio": ("audio/opus",)}
_CLOSE_S = 5.0
_LOOPBACK = "127.0.0.1"

log = logging.getLogger(__name__)


class Peer:
    """Sends a viewing to one viewer. Close it."""

    def __init__(self, viewing: Viewing, offer: Offer, clock: Clock, *, is_local: bool) -> None:
        """`is_local`: the viewer is on this machine, and may have no other address."""
        self._offer = offer
        self._clock = clock
        self._is_local = is_local
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._connection.on("connectionstatechange", self._changed)
        self.is_connected = False
        self.is_closed = False
        """The viewer has gone, or could not be reached."""
        self._heard_s = clock.now()
        self._sent_then = 0
        self._senders = [self._sender(kind, viewing) for kind in offer.kinds]

    @property
    def unheard_s(self) -> float:
        """Seconds since the viewer reported of what it gets; 0 when it was sent nothing since."""
        if self._sent == self._sent_then:
            self._heard_s = self._clock.now()
        return self._clock.now() - self._heard_s

    async def answer(self) -> str:
        """Accepts the offer. Returns the answer, with all of this machine's candidates. Raises Problem."""
        connection = self._connection
        self._add_loopback()
        try:
            await connection.setRemoteDescription(RTCSessionDescription(self._offer.sdp, "offer"))
            await connection.setLocalDescription(await connection.createAnswer())
        except OperationError:
            raise invalid("the offer has no H.264 with packetization-mode 1, or no Opus") from None
        except (InvalidAccessError, InvalidStateError, ValueError) as error:
            log.info("an offer could not be answered: %s", error)
            raise invalid("the offer cannot be answered") from None
        return connection.localDescription.sdp

    async def add_candidates(self, candidates: Sequence[RTCIceCandidate]) -> None:
        """Tries more addresses of the viewer."""
        for candidate in candidates:
            await self._connection.addIceCandidate(candidate)

    async def close(self) -> None:
        """Ends the connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._connection.close()

    def _sender(self, kind: str, viewing: Viewing) -> UnitSender:
        transceiver = self._connection.addTransceiver(UnitTrack(kind), "sendonly")
        wanted = _CODECS[kind]
        transceiver.setCodecPreferences([each for each in RTCRtpSender.getCapabilities(kind).codecs if each.mimeType in wanted])
        units = viewing.video if kind == "video" else viewing.audio
        return UnitSender(transceiver.sender, units, unix_s=viewing.unix_s, heard=self._hear)

    def _add_loopback(self) -> None:
        """Lets a viewer on this machine come by its own address, which is given to nobody else."""
        if not self._is_local:
            return
        ice = self._connection.getSenders()[0].transport.transport._connection
        gather = ice.get_component_candidates

        async def gather_too(component: int, addresses: list[str], timeout: int = 5) -> list[Any]:
            return await gather(component, [*addresses, _LOOPBACK], timeout)

        vars(ice).update(get_component_candidates=gather_too)

    @property
    def _sent(self) -> int:
        return sum(each.packets for each in self._senders)

    def _hear(self) -> None:
        self._heard_s, self._sent_then = self._clock.now(), self._sent

    def _changed(self) -> None:
        state = self._connection.connectionState
        self.is_connected = self.is_connected or state == "connected"
        self.is_closed = state in {"failed", "closed"}
