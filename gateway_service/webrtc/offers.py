"""Reads what players send: offers, and candidates that come after them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import grpc
from aiortc import RTCIceCandidate
from aiortc.sdp import SessionDescription, candidate_from_sdp

from gateway_service.problems import Problem, of_code

# Each is tried, from each of this machine's addresses: more serve no player, and would make the gateway knock at many doors.
MOST_CANDIDATES = 16
_DIRECTIONS = frozenset({"recvonly", "sendrecv"})
_KINDS = frozenset({"audio", "video"})
_LINE = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer that can be answered, if the codecs agree."""

    sdp: str = field(repr=False)
    kinds: tuple[str, ...]
    """Kinds of its lines: "audio", "video"."""
    ice_name: str
    """Names the player's side of the connection."""
    first_line: str
    """The name of the line that all share a connection with."""
    candidates: int
    """The number of addresses of the player in it."""


def read_offer(text: str) -> Offer:
    """Reads an offer. Raises Problem for one that cannot be answered."""
    sdp = "\r\n".join(_usable(text)) + "\r\n"
    try:
        lines = SessionDescription.parse(sdp).media
    except Exception:  # aiortc's parser has no error of its own: it asserts, indexes and converts
        raise invalid("the offer is no session description (RFC 8866)") from None
    kinds = tuple(line.kind for line in lines)
    if not kinds or not set(kinds) <= _KINDS or len(set(kinds)) < len(kinds):
        raise invalid("offer a line of video, one of audio, or both, and nothing else")
    for line in lines:
        if line.direction not in _DIRECTIONS:
            raise invalid(f"the {line.kind} line must be recvonly")
        if line.ice is None or not line.ice.usernameFragment or not line.ice.password:
            raise invalid(f"the {line.kind} line has no ice-ufrag or no ice-pwd")
        if line.dtls is None or not line.dtls.fingerprints:
            raise invalid(f"the {line.kind} line has no fingerprint")
    assert lines[0].ice
    return Offer(
        sdp, kinds, str(lines[0].ice.usernameFragment), lines[0].rtp.muxId, sum(len(line.ice_candidates) for line in lines)
    )


def read_candidates(text: str, offer: Offer) -> list[RTCIceCandidate]:
    """Reads candidates of a player (RFC 8840). Raises Problem, 422 where they are of a connection that is to begin anew."""
    found: list[RTCIceCandidate] = []
    for line in _usable(text):
        name, _, value = line.partition(":")
        if name == "a=ice-ufrag" and value != offer.ice_name:
            detail = "the connection cannot be begun anew: delete it, and offer again"
            raise Problem(422, detail, code=grpc.StatusCode.UNIMPLEMENTED)
        if name == "a=candidate":
            try:
                candidate = candidate_from_sdp(value)
            except Exception:  # as above
                raise invalid("a candidate is not well-formed") from None
            candidate.sdpMid, candidate.sdpMLineIndex = offer.first_line, 0
            found.append(candidate)
    return found


def invalid(detail: str) -> Problem:
    """Returns the problem of a request that cannot be understood."""
    return of_code(grpc.StatusCode.INVALID_ARGUMENT, detail)


def _usable(text: str) -> list[str]:
    """Returns the lines without surplus candidates, and without names that only the player's own network knows: looking for one
    takes a second, and the connection does without, as the player's checks tell its address."""
    kept, candidates = [], 0
    for line in filter(None, _LINE.split(text)):
        if line.startswith("a=candidate:"):
            candidates += 1
            if candidates > MOST_CANDIDATES or ".local " in line:
                continue
        kept.append(line)
    return kept
