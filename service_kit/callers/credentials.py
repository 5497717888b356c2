"""Finds the credential that a call carries: `authorization: Bearer ...` or `x-api-key`, in metadata or HTTP headers alike."""

from __future__ import annotations

import re
from collections.abc import Iterable

from service_kit.errors import Unauthenticated

AUTHORIZATION_KEY = "authorization"
API_KEY_KEY = "x-api-key"
CALLER_KEY = "x-lipsync-caller"
"""Names the caller for whom a gateway calls."""

LIMITS_KEY = "x-lipsync-caller-limits"
"""Tells that caller's own limits, as JSON."""

MAX_CREDENTIAL_CHARS = 8192

_BEARER = re.compile(r"bearer +", re.IGNORECASE | re.ASCII)
# Of RFC 6750, which has room for JWT and for our keys.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+", re.ASCII)


def credential_in(pairs: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Returns the credential among metadata or headers; None if there is none. Raises Unauthenticated for more than one.

    Two of them would be a question of who reads which: a proxy may check the first, and a service use the last.
    """
    found = [(key.lower(), value) for key, value in pairs if key.lower() in {AUTHORIZATION_KEY, API_KEY_KEY}]
    if not found:
        return None
    if len(found) > 1:
        raise Unauthenticated("send one credential: authorization or x-api-key, once")
    key, value = found[0]
    if isinstance(value, bytes):
        raise Unauthenticated("the credential is no text")
    if key == AUTHORIZATION_KEY:
        scheme = _BEARER.match(value)
        if scheme is None:
            raise Unauthenticated("send authorization as: Bearer, a space and an API key or a token")
        value = value[scheme.end() :]
    if len(value) > MAX_CREDENTIAL_CHARS:
        raise Unauthenticated(f"the credential has more than {MAX_CREDENTIAL_CHARS} characters")
    if not _TOKEN.fullmatch(value):
        raise Unauthenticated("the credential is empty, or has characters that none has")
    return value


def caller_limits_in(pairs: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Returns the text with the limits of the caller for whom another one calls. Raises Unauthenticated for several."""
    return _only(pairs, LIMITS_KEY)


def caller_named_in(pairs: Iterable[tuple[str, str | bytes]]) -> str | None:
    """Returns the name of the caller for whom another one calls; None if no name is given. Raises Unauthenticated for several."""
    return _only(pairs, CALLER_KEY)


def _only(pairs: Iterable[tuple[str, str | bytes]], wanted: str) -> str | None:
    values = [value for key, value in pairs if key.lower() == wanted]
    if not values:
        return None
    if len(values) > 1 or not isinstance(values[0], str):
        raise Unauthenticated(f"send {wanted} once")
    return values[0]
