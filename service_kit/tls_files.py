"""The files that a TLS section names: read together, and read again when they have changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

from service_kit.certificates import CertificateError, Pair, PemFile, noted_in, read_authorities, read_pair
from service_kit.clock import Clock
from service_kit.sections import ClientTlsSection, TlsSection

log = logging.getLogger(__name__)

# Device, inode, size and time of the last change of each file; None for one that is not there.
Stamp = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class Material:
    """What the files of a section hold, checked."""

    pair: Pair | None
    authorities: bytes | None


class TlsFiles:
    """The files that a section names."""

    def __init__(self, section: TlsSection | ClientTlsSection, key: str) -> None:
        self.section = section
        self.key = key
        self._certificate = self._file("certificate_file", section.certificate_file)
        self._private_key = self._file("key_file", section.key_file)
        self._authorities = (
            self._file("client_ca_file", section.client_ca_file)
            if isinstance(section, TlsSection)
            else self._file("ca_file", section.ca_file)
        )

    def _file(self, name: str, path: Path | None) -> PemFile | None:
        return None if path is None else PemFile(f"{self.key}.{name}", path)

    def read(self) -> Material:
        """Raises CertificateError with every problem."""
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
        is_server = isinstance(self.section, TlsSection)
        given = {"certificate_file": self._certificate, "key_file": self._private_key}
        if is_server or any(given.values()):
            why = "a server with TLS" if is_server else "a client that presents a certificate"
            problems += [f"{self.key}.{name}: not given, and {why} needs it" for name, file in given.items() if file is None]
        if isinstance(self.section, TlsSection) and self.section.allowed_client_names and self._authorities is None:
            problems.append(f"{self.key}.client_ca_file: not given, and without it no client has the names to allow")
        return problems

    def stamp(self) -> Stamp:
        """Differs after a file was written or replaced, given other permissions, or is a link to another one."""
        return tuple(_stamp(file.path) for file in (self._certificate, self._private_key, self._authorities) if file)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


class WatchedFiles:
    """The last usable contents of the files."""

    def __init__(self, files: TlsFiles, note: Callable[[Material], None], *, clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._note = note
        self._read_at = files.stamp()  # before reading: what changes meanwhile is noticed
        self.material = files.read()
        note(self.material)

    async def renewals(self) -> AsyncGenerator[Material, None]:
        """New contents, whenever there are any that can be used. They are read when two looks saw the same files, as several are
        seldom written at once. Those that cannot be used are read again at each look: a certificate may be valid from soon on."""
        last, told = self._read_at, ""
        while True:
            await self._clock.sleep(self._files.section.reload_seconds)
            before, last = last, await asyncio.to_thread(self._files.stamp)
            if last != before or last == self._read_at:
                continue
            try:
                material = await asyncio.to_thread(self._files.read)
            except CertificateError as error:
                if str(error) != told:
                    log.error("the files changed and cannot be used, so what was read before stays: %s", error)
                told = str(error)
                continue
            self._read_at, told = last, ""
            if material != self.material:
                self.material = material
                self._note(material)
                log.info("%s: renewed from changed files", self._files.key)
                yield material
