"""Ways by which viewers reach the gateway: its addresses, and STUN and TURN servers of the settings, by default none."""

from __future__ import annotations

import hmac
import re
import time
from base64 import b64encode
from collections.abc import Iterable

from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy
from aiortc.rtcconfiguration import RTCBundlePolicy

from gateway_service.webrtc.settings import WebrtcSection

LOOPBACK = "127.0.0.1"
_HOST = re.compile(r"^a=candidate:(\S+) 1 udp (\d+) (\S+) (\d+) typ host\r$", re.MULTILINE)


class IceServers:
    """The servers for the gateway and for its viewers."""

    def __init__(self, section: WebrtcSection) -> None:
        """Raises OSError for a secret that cannot be read."""
        self._section = section
        self._secret = section.turn_secret_file.read_bytes().strip() if section.turn_secret_file else b""

    def configuration(self) -> RTCConfiguration:
        """Returns what a connection of the gateway uses. aioice takes one server of each kind."""
        servers = [RTCIceServer(url) for url in self._section.stun_urls[:1]]
        for url in self._section.turn_urls[:1]:
            name, password = self._credential()
            servers.append(RTCIceServer(url, name, password))
        policy = RTCIceTransportPolicy.RELAY if self._section.relay_only else RTCIceTransportPolicy.ALL
        return RTCConfiguration(servers, policy, RTCBundlePolicy.MAX_BUNDLE)

    def links(self) -> list[str]:
        """Returns the servers as players get them: values of Link headers (RFC 9725, section 4.6)."""
        links = [f'<{url}>; rel="ice-server"' for url in self._section.stun_urls]
        if self._section.turn_urls:
            name, password = self._credential()
            secret = f'username="{name}"; credential="{password}"; credential-type="password"'
            links += [f'<{url}>; rel="ice-server"; {secret}' for url in self._section.turn_urls]
        return links

    def _credential(self) -> tuple[str, str]:
        """Makes a name and password that the TURN server takes for a while (draft-uberti-behave-turn-rest)."""
        name = str(int(time.time() + self._section.turn_seconds))
        return name, b64encode(hmac.digest(self._secret, name.encode(), "sha1")).decode()


def with_public(answer: str, addresses: Iterable[str]) -> str:
    """Returns an answer in which each host candidate is also one at each public address of its kind, with the same port."""
    given = list(addresses)

    def more(found: re.Match[str]) -> str:
        name, priority, host, port = found.groups()
        same = [each for each in given if (":" in each) == (":" in host)]
        lines = [
            f"a=candidate:{name}p{place} 1 udp {int(priority) - 1 - place} {each} {port} typ host\r"
            for place, each in enumerate(same)
        ]
        return "\n".join([found[0], *lines])

    return _HOST.sub(more, answer)
