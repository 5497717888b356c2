"""Reads the files that a TLS section names, together, and again after a change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from service_kit.certificates import CertificateError, Pair, PemFile, noted_in, read_authorities, read_pair
from service_kit.clock import Clock
from service_kit.sections import ClientTlsSection, TlsSection

# Device, inode, size and time of the last change of each file; None for one that does not exist.
_Stamps = list[tuple[int, ...] | None]

log = logging.getLogger(__name__)


class Material(NamedTuple):
    """Checked contents of the files of a section."""

    pair: Pair | None
    authorities: bytes | None


class TlsFiles:
    """The files that a section names."""

    def __init__(self, section: TlsSection | ClientTlsSection, key: str) -> None:
        """`key` is that of the section, for messages."""
        self._section = section
        self.key = key
        authorities = "client_ca_file" if isinstance(section, TlsSection) else "ca_file"
        self._certificate, self._private_key, self._authorities = map(self._file, ("certificate_file", "key_file", authorities))

    def _file(self, name: str) -> PemFile | None:
        path: Path | None = getattr(self._section, name)
        return None if path is None else PemFile(f"{self.key}.{name}", path)

    def read(self) -> Material:
        """Reads and checks the files. Raises CertificateError with every problem."""
        problems = self._missing()
        pair = authorities = None
        with noted_in(problems):
            if self._certificate and self._private_key:
                pair = read_pair(self._certificate, self._private_key)
        with noted_in(problems):
            if self._authorities:
                authorities = read_authorities(self._authorities)
        if problems:
            raise CertificateError(problems)
        return Material(pair, authorities)

    def _missing(self) -> list[str]:
        problems = []
        is_server = isinstance(self._section, TlsSection)
        given = {"certificate_file": self._certificate, "key_file": self._private_key}
        if is_server or any(given.values()):
            why = "a server with TLS" if is_server else "a client that presents a certificate"
            problems += [f"{self.key}.{name}: not given, and {why} needs it" for name, file in given.items() if file is None]
        if isinstance(self._section, TlsSection) and self._section.allowed_client_names and self._authorities is None:
            problems.append(f"{self.key}.client_ca_file: not given, and without it no client has the names to allow")
        return problems

    def _stamps(self) -> _Stamps:
        """Returns a value that changes when a file is written or replaced, or a link to it is."""
        return [_stamp(file.path) for file in (self._certificate, self._private_key, self._authorities) if file]

    async def contents(self, clock: Clock) -> AsyncIterator[Material]:
        """Yields the contents at the first look and after each change, when they can be used. Without end.

        The files are read once two looks saw the same, because several files are seldom written at once. Files that cannot be
        used are read again at each look: a certificate may become valid later.
        """
        read_at: _Stamps | None = None
        last: _Stamps | None = None
        reported = ""
        while True:
            before, last = last, await asyncio.to_thread(self._stamps)
            if last == before and last != read_at:
                try:
                    yield await asyncio.to_thread(self.read)
                    read_at, reported = last, ""
                except CertificateError as error:
                    if str(error) != reported:
                        log.error("the files changed and cannot be used, so what was read before stays: %s", error)
                    reported = str(error)
            await clock.sleep(self._section.reload_seconds)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns
