"""The API key with which a service calls another one, followed while its file changes."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

from service_kit.callers.credentials import AUTHORIZATION_KEY, MAX_CREDENTIAL_CHARS
from service_kit.clock import Clock
from service_kit.file_stamps import stamp_of
from service_kit.listening import StartError

LOOK_SECONDS = 5.0
_KEY = re.compile(r"[!-~]{1,8192}", re.ASCII)

Metadata = tuple[tuple[str, str], ...]

log = logging.getLogger(__name__)


class OutgoingKey:
    """A key in a file, or none. Raises StartError, which names the setting `key`, for a file without one."""

    def __init__(self, path: Path | None, *, key: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._stamp = stamp_of(path) if path else None
        try:
            self.text = _read(path) if path else ""
        except ValueError as error:
            raise StartError(f"{key}: {error}") from None

    def metadata(self) -> Metadata:
        """Returns what a call carries; nothing without a key."""
        return ((AUTHORIZATION_KEY, f"Bearer {self.text}"),) if self.text else ()

    async def follow(self) -> None:
        """Reads the file when it changes, without end. One that cannot be used changes nothing, and is logged."""
        while self._path:
            await self._clock.sleep(LOOK_SECONDS)
            stamp = await asyncio.to_thread(stamp_of, self._path)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                self.text = await asyncio.to_thread(_read, self._path)
            except ValueError as error:
                log.error("the key for the next service changed and cannot be used, so the old one stays: %s", error)


def _read(path: Path) -> str:
    """Reads a key. Raises ValueError, without the file's content."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CREDENTIAL_CHARS + 2).decode("ascii", "replace").strip()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not _KEY.fullmatch(text):
        raise ValueError(f"{path} does not hold one API key and nothing else")
    return text
