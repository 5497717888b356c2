"""TLS of a service, towards its callers and towards other services, with certificates that are renewed while it runs.

gRPC asks for a server's certificate at each handshake (`dynamic_ssl_server_credentials`). A channel keeps its certificate for
life, so a client makes new channels after a renewal.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.file_stamps import Stamp, stamp_of
from service_kit.metrics import Metrics
from service_kit.sections import ClientTlsSection, TlsSection

if TYPE_CHECKING:
    from service_kit.certificates import Material

log = logging.getLogger(__name__)


def tls_problems(section: TlsSection | ClientTlsSection, *, key: str) -> list[str]:
    """Names every reason why `section` cannot be followed, one sentence each. `key` is the section's own: "tls"."""
    if not section.is_on:
        return []
    from service_kit.certificates import CertificateError, read_material

    try:
        read_material(section, key)
    except CertificateError as error:
        return list(error.problems)
    return []


class _Tls:
    """The checked files of a section, followed while they change."""

    def __init__(self, section: TlsSection | ClientTlsSection, metrics: Metrics, side: str, key: str, clock: Clock) -> None:
        self._section = section
        self._key = key
        self._clock = clock
        self._reported = ""  # the last reason why the files cannot be used
        self._expiry = metrics.certificate_expiry.labels(side)
        self._take(self._read())

    def _read(self) -> Material:
        from service_kit.certificates import read_material

        return read_material(self._section, self._key)

    def _take(self, material: Material) -> None:
        self._material = material
        if material.pair:
            self._expiry.set(material.pair.expires_at)

    async def follow(self, renewed: Callable[[], Awaitable[None]] | None = None) -> None:
        """Looks for changed files, takes their contents and awaits `renewed` each time, without end.

        The files are read once two looks saw the same, because several files are seldom written at once. Files that cannot be
        used are read again at each look: a certificate may become valid later.
        """
        last: list[Stamp | None] | None = None
        read_at = last
        while True:
            before, last = last, await asyncio.to_thread(self._stamps)
            if last == before and last != read_at and (material := await self._read_again()):
                read_at = last
                if material != self._material:
                    self._take(material)
                    if renewed:
                        await renewed()
                    log.info("%s: renewed from changed files", self._key)
            await self._clock.sleep(self._section.reload_seconds)

    async def _read_again(self) -> Material | None:
        """Reads the files on a thread. Returns None when they cannot be used, and logs each new reason."""
        from service_kit.certificates import CertificateError

        try:
            material = await asyncio.to_thread(self._read)
        except CertificateError as error:
            if str(error) != self._reported:
                log.error("the files changed and cannot be used, so what was read before stays: %s", error)
            self._reported = str(error)
            return None
        self._reported = ""
        return material

    def _stamps(self) -> list[Stamp | None]:
        """Returns a value that changes when a file is written or replaced, or a link to it is."""
        return [stamp_of(path) for _, path in self._section if isinstance(path, Path)]


class ServerTls(_Tls):
    """TLS for the ports of a server. Raises CertificateError."""

    def __init__(self, section: TlsSection, metrics: Metrics, *, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(section, metrics, "server", "tls", clock)
        self._asks_for_certificates = section.client_ca_file is not None

    def credentials(self) -> grpc.ServerCredentials:
        """Returns credentials for one port: gRPC's object remembers what it was given, so two ports cannot share one."""
        handed_over = self._material

        def newest() -> grpc.ServerCertificateConfiguration | None:
            """Returns the configuration if it is new, else None. gRPC calls this in a thread of its own before each handshake."""
            nonlocal handed_over
            if handed_over is self._material:
                return None
            handed_over = self._material
            return _configuration(handed_over)

        may_give_none: Any = newest  # the stubs do not know that it may
        return grpc.dynamic_ssl_server_credentials(
            _configuration(handed_over), may_give_none, require_client_authentication=self._asks_for_certificates
        )


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    pairs = [(material.pair.private_key, material.pair.certificate)] if material.pair else []
    return grpc.ssl_server_certificate_configuration(pairs, material.authorities)


class HttpTls(_Tls):
    """TLS for the ports of an HTTP server. Raises CertificateError."""

    def __init__(self, section: TlsSection, metrics: Metrics, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        """For new connections; it follows the files."""
        super().__init__(section, metrics, "server", "tls", clock)

    def _take(self, material: Material) -> None:
        assert self._section.certificate_file
        self.context.load_cert_chain(self._section.certificate_file, self._section.key_file)
        if material.authorities:
            self.context.load_verify_locations(cadata=material.authorities.decode("ascii", "ignore"))
            self.context.verify_mode = ssl.CERT_REQUIRED
        super()._take(material)


class ClientTls(_Tls):
    """TLS for channels to another service. Raises CertificateError."""

    def __init__(self, section: ClientTlsSection, metrics: Metrics, *, key: str, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(section, metrics, "client", key, clock)
        # Options of such a channel.
        self.channel_options = [("grpc.ssl_target_name_override", section.server_name)] if section.server_name else []

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials for a channel that is made now."""
        pair, authorities = self._material
        return grpc.ssl_channel_credentials(authorities, *((pair.private_key, pair.certificate) if pair else ()))
