"""Gives aiortc's senders packets that were encoded elsewhere.

aiortc encodes for each peer, and has no public way to do otherwise that keeps requests for key pictures. So methods of a sender
are replaced that are not public: `requirements/` pins the version, and the tests see each of them work.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiortc import MediaStreamTrack, RTCRtpSender
from aiortc.clock import datetime_to_ntp
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpsender import RTCEncodedFrame
from aiortc.rtp import RTP_HISTORY_SIZE, AnyRtcpPacket, RtcpSrPacket

from gateway_service.webrtc.units import UnitQueue

CLOCK_RATES = {"video": 90_000, "audio": 48_000}
"""Ticks of RTP time a second, by kind."""


class UnitTrack(MediaStreamTrack):
    """Names what a sender sends."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    async def recv(self) -> Any:
        """Is called by no sender that `UnitSender` feeds."""
        raise MediaStreamError


class UnitSender:
    """Feeds one sender from a queue."""

    def __init__(
        self, sender: RTCRtpSender, units: UnitQueue, *, unix_s: Callable[[int], float], heard: Callable[[], None]
    ) -> None:
        """`unix_s` returns the time of the day of a moment of the media; `heard` is called for each report of the peer."""
        self._sender = sender
        self._units = units
        self._unix_s = unix_s
        self._heard = heard
        self._rate = CLOCK_RATES[sender.kind]
        self._last_us: int | None = None
        self.packets = 0
        """The number of packets that were sent."""
        vars(sender).update(
            _next_encoded_frame=self._next,
            _send_keyframe=units.request_key,
            _retransmit=self._retransmit,
            _handle_rtcp_packet=self._handle,
            _send_rtcp=self._report,
        )

    async def _next(self, _codec: object) -> RTCEncodedFrame:
        unit = await self._units.next()
        if unit is None:
            raise MediaStreamError
        self._last_us = unit.media_us
        self.packets += len(unit.payloads)
        return RTCEncodedFrame(list(unit.payloads), unit.media_us * self._rate // 1_000_000, None)  # type: ignore[arg-type]  # it has none

    async def _retransmit(self, number: int) -> None:
        """Sends a packet again; a picture that has lost one which is not kept any more can only be begun anew."""
        kept = self._sender._RTCRtpSender__rtp_history.get(number % RTP_HISTORY_SIZE)  # type: ignore[attr-defined]
        if kept is None or kept.sequence_number != number:
            self._units.request_key()
        else:
            await RTCRtpSender._retransmit(self._sender, number)

    async def _handle(self, packet: AnyRtcpPacket) -> None:
        self._heard()
        await RTCRtpSender._handle_rtcp_packet(self._sender, packet)

    async def _report(self, packets: list[AnyRtcpPacket]) -> None:
        """Sends a report. What it says of time is how peers bring picture and sound together.

        aiortc pairs the time of the last packet in the media with the moment when it was sent, which the two have at different
        delays. It also reports before there is anything.
        """
        first = packets[0]
        if isinstance(first, RtcpSrPacket):
            if self._last_us is None:
                return
            moment = datetime.fromtimestamp(self._unix_s(self._last_us), UTC)
            first.sender_info.ntp_timestamp = datetime_to_ntp(moment)
        await RTCRtpSender._send_rtcp(self._sender, packets)
