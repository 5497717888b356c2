"""The public keys that sign tokens: a JWKS in a file or at an address, kept, and asked for again when a token names another key.

An address is asked off the event loop, without redirects, for a short time, and at most once in COOLDOWN_S however many tokens
name keys that nobody has: else a flood of such tokens would be a flood of requests to the issuer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any

import jwt

from service_kit.clock import Clock

COOLDOWN_S = 30.0
FETCH_SECONDS = 3.0
MAX_BYTES = 1 << 20
# Symmetric keys have no place among public ones: whoever knows them could sign.
KEY_TYPES = frozenset({"RSA", "EC", "OKP"})

log = logging.getLogger(__name__)


class SigningKeysError(Exception):
    """The keys cannot be had. One sentence says why."""


class SigningKeys:
    """The keys by their ids. `load` returns the JWKS as text, from a thread; it raises OSError or ValueError."""

    def __init__(self, load: Callable[[], str], *, refresh_seconds: float, clock: Clock) -> None:
        self._load = load
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._asked_s = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    @property
    def are_known(self) -> bool:
        """True once keys were had."""
        return bool(self._keys)

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """Returns the key with this id, or, without an id, the only one; None if there is none. May ask for the keys again."""
        found = self._kept(key_id)
        if found is None and (self._asking or self._clock.now() >= self._asked_s + COOLDOWN_S):
            await self.refresh()
            found = self._kept(key_id)
        return found

    async def refresh(self) -> None:
        """Asks for the keys; those who ask meanwhile get the same answer. Keys that cannot be had leave the old ones."""
        if self._asking is None:
            self._asked_s = self._clock.now()
            self._asking = asyncio.create_task(self._ask())
        await asyncio.shield(self._asking)

    async def follow(self) -> None:
        """Asks for the keys now and then, without end: an issuer changes them, and takes some back."""
        while True:
            await self.refresh()
            await self._clock.sleep(self._refresh_seconds)

    def _kept(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is not None:
            return self._keys.get(key_id)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

    async def _ask(self) -> None:
        try:
            keys = read_keys(await asyncio.to_thread(self._load))
        except (OSError, ValueError, SigningKeysError) as error:
            log.error("the keys that sign tokens cannot be had, so %d old ones stay: %s", len(self._keys), error)
        else:
            if keys.keys() != self._keys.keys():
                log.info("the keys that sign tokens changed", extra={"keys": len(keys)})
            self._keys = keys
        finally:
            self._asking = None


def read_keys(text: str) -> dict[str, jwt.PyJWK]:
    """Returns the keys of a JWKS that can sign, by id. Raises SigningKeysError if there is none."""
    try:
        content = json.loads(text)
        listed = [each for each in content["keys"] if isinstance(each, dict)]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SigningKeysError("this is no JWKS: an object with a list of keys") from None
    keys: dict[str, jwt.PyJWK] = {}
    for number, each in enumerate(listed):
        if each.get("kty") in KEY_TYPES and each.get("use", "sig") == "sig" and "d" not in each:
            try:
                keys[str(each.get("kid", number))] = jwt.PyJWK(each)
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):
                log.warning("a key among those that sign tokens cannot be used", extra={"number": number})
    if not keys:
        raise SigningKeysError("the JWKS has no public key that can check signatures")
    return keys


def from_file(path: Path) -> str:
    """Reads a JWKS. Raises OSError or ValueError."""
    with path.open("rb") as file:
        return _text(file.read(MAX_BYTES + 1))


def from_url(url: str) -> str:
    """Asks for a JWKS. Raises OSError or ValueError."""
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - the settings allow https alone
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=FETCH_SECONDS) as answer:
        return _text(answer.read(MAX_BYTES + 1))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Any:
        return None  # the redirect is an error then


def _text(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise ValueError(f"the JWKS has more than {MAX_BYTES >> 20} MiB")
    return content.decode()
