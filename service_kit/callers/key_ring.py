"""The API keys that a service knows, followed while their file changes."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service_kit.callers.caller import Caller
from service_kit.callers.key_file import KeyFile, KeyFileError, KeyRecord, read_key_file
from service_kit.callers.keys import digest, key_id_of
from service_kit.clock import Clock
from service_kit.errors import Unauthenticated
from service_kit.file_stamps import stamp_of
from service_kit.limits.settings import limits_of

log = logging.getLogger(__name__)

_UNKNOWN = "this API key is not known"
# What a key is compared with whose id has no record, so that both take the same time.
_NO_DIGEST = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class _Known:
    record: KeyRecord
    digest: bytes
    caller: Caller


class KeyRing:
    """The keys in a file, or none without one. `unix_now` returns seconds since 1970. Raises KeyFileError."""

    def __init__(self, path: Path | None, *, reload_seconds: float, clock: Clock, unix_now: Callable[[], float]) -> None:
        self._path = path
        self._reload_seconds = reload_seconds
        self._clock = clock
        self._unix_now = unix_now
        self._known: dict[str, _Known] = {}
        self._revoked: frozenset[str] = frozenset()
        self.on_change: list[Callable[[], None]] = []
        """Called when the file was read again."""
        if path is not None:
            self._stamp = stamp_of(path)
            try:
                self._take(read_key_file(path))
            except FileNotFoundError:
                log.warning("%s is not there yet, so no API key is known: `lipsync key create` makes one", path)

    def caller_of(self, text: str) -> Caller:
        """Returns the caller with a key. Raises Unauthenticated, in the same words for every key that is not in the file."""
        key_id = key_id_of(text)
        if key_id is None:
            raise Unauthenticated("the API key is mistyped or incomplete")
        known = self._known.get(key_id)
        if not hmac.compare_digest(digest(text), known.digest if known else _NO_DIGEST) or known is None:
            raise Unauthenticated(_UNKNOWN)
        if not known.record.is_live(datetime.fromtimestamp(self._unix_now(), UTC)):
            raise Unauthenticated("this API key has expired")
        return known.caller

    def stands(self, caller: Caller) -> bool:
        """Tells if neither the caller nor the key by which it came was revoked."""
        return caller.name not in self._revoked and (not caller.key_id or caller.key_id in self._known)

    def has_revoked(self, name: str) -> bool:
        """Tells if a caller was revoked by its name."""
        return name in self._revoked

    async def follow(self) -> None:
        """Reads the file when it changes, without end. One that cannot be used changes nothing, and is logged."""
        if self._path is None:
            return
        while True:
            await self._clock.sleep(self._reload_seconds)
            stamp = await asyncio.to_thread(stamp_of, self._path)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                self._take(await asyncio.to_thread(read_key_file, self._path))
            except FileNotFoundError:
                log.error("%s is gone, so the keys that were read before stay", self._path)
            except KeyFileError as error:
                log.error("the API keys changed and cannot be used, so those that were read before stay: %s", error)
            else:
                log.info("the API keys were read again", extra={"keys": len(self._known)})
                for tell in self.on_change:
                    tell()

    def _take(self, content: KeyFile) -> None:
        self._known = {
            record.id: _Known(
                record,
                bytes.fromhex(record.sha256),
                Caller(
                    record.caller,
                    frozenset(record.scopes),
                    record.avatars,
                    record.id,
                    limits_of(record.limits),
                    stands=self.stands,
                ),
            )
            for record in content.keys
        }
        self._revoked = frozenset(content.revoked_callers)
