"""API keys as text: `ls_live_<id>_<secret>_<checksum>`, all of it digits and letters.

The prefix lets scanners of secrets find a key, the id finds its record, and the checksum refuses what was mistyped before
anything is looked up. The secret has 256 random bits, so one round of SHA-256 keeps it as well as a slow hash would.
"""

from __future__ import annotations

import re
import secrets
import zlib
from hashlib import sha256
from typing import NamedTuple

PREFIX = "ls_live_"
ID_CHARS, SECRET_CHARS, CHECK_CHARS = 10, 43, 6
SECRET_BITS = 256

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{ID_CHARS}}})_[0-9A-Za-z]{{{SECRET_CHARS}}}_([0-9A-Za-z]{{{CHECK_CHARS}}})", re.ASCII)


class NewKey(NamedTuple):
    """A key that was just made. `text` is shown once and kept nowhere."""

    id: str
    text: str


def new_key() -> NewKey:
    """Makes a key."""
    key_id = "".join(secrets.choice(_DIGITS) for _ in range(ID_CHARS))
    body = f"{PREFIX}{key_id}_{_base62(secrets.randbits(SECRET_BITS), SECRET_CHARS)}"
    return NewKey(key_id, f"{body}_{_checksum(body)}")


def looks_like_key(text: str) -> bool:
    """Tells if a credential is meant to be an API key."""
    return text.startswith("ls_")


def key_id_of(text: str) -> str | None:
    """Returns the id in a key; None for what is no key or was mistyped."""
    match = _FORM.fullmatch(text)
    if match is None or _checksum(text.rpartition("_")[0]) != match[2]:
        return None
    return match[1]


def digest(text: str) -> bytes:
    """Returns what is kept of a key: 32 bytes."""
    return sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECK_CHARS)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
