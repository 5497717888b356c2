"""The connection to one viewer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aiortc import (
    RTCIceCandidate,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError

from gateway_service.webrtc.broadcast import Viewing
from gateway_service.webrtc.ice import LOOPBACK, IceServers, with_public
from gateway_service.webrtc.offers import Offer, invalid
from gateway_service.webrtc.sender import UnitSender, UnitTrack
from gateway_service.webrtc.settings import WebrtcSection
from service_kit.clock import Clock

_CODECS = {"video": ("video/H264", "video/rtx"), "audio": ("audio/opus",)}
_CLOSE_S = 5.0

log = logging.getLogger(__name__)


class Peer:
    """Sends a viewing to one viewer. Close it."""

    def __init__(
        self, viewing: Viewing, offer: Offer, servers: IceServers, section: WebrtcSection, clock: Clock, *, is_local: bool
    ) -> None:
        """`is_local`: the viewer is on this machine, and may have no other address."""
        self._offer = offer
        self._section = section
        self._clock = clock
        self._is_local = is_local
        self._connection = RTCPeerConnection(servers.configuration())
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
        self._choose_addresses()
        try:
            await connection.setRemoteDescription(RTCSessionDescription(self._offer.sdp, "offer"))
            await connection.setLocalDescription(await connection.createAnswer())
        except OperationError:
            raise invalid("the offer has no H.264 with packetization-mode 1, or no Opus") from None
        except (InvalidAccessError, InvalidStateError, ValueError) as error:
            log.info("an offer could not be answered: %s", error)
            raise invalid("the offer cannot be answered") from None
        return with_public(connection.localDescription.sdp, self._section.public_addresses)

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

    def _choose_addresses(self) -> None:
        """Sees to it that the connection has the addresses of the settings. aioice takes all but 127.0.0.1, without a choice."""
        ice = self._connection.getSenders()[0].transport.transport._connection
        gather = ice.get_component_candidates

        async def gather_chosen(component: int, addresses: list[str], timeout: int = 5) -> list[Any]:
            if self._section.relay_only:
                return await gather(component, addresses, timeout)
            chosen = [*(self._section.addresses or addresses), *([LOOPBACK] if self._is_local else [])]
            return await gather(component, list(dict.fromkeys(chosen)), timeout)

        vars(ice).update(get_component_candidates=gather_chosen)

    @property
    def _sent(self) -> int:
        return sum(each.packets for each in self._senders)

    def _hear(self) -> None:
        self._heard_s, self._sent_then = self._clock.now(), self._sent

    def _changed(self) -> None:
        state = self._connection.connectionState
        self.is_connected = self.is_connected or state == "connected"
        self.is_closed = state in {"failed", "closed"}
