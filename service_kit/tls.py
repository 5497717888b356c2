"""TLS of a service, towards its callers and towards other services, with certificates that are renewed while it runs.

gRPC asks for a server's certificate at each handshake (`dynamic_ssl_server_credentials`). A channel keeps its own for life, so
whoever calls makes new channels after a renewal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc

from service_kit.certificates import CertificateError
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.metrics import Metrics
from service_kit.sections import ClientTlsSection, TlsSection
from service_kit.tls_files import Material, TlsFiles, WatchedFiles


def tls_problems(section: TlsSection | ClientTlsSection, *, key: str) -> list[str]:
    """Every reason why TLS cannot be had as `section` says, one sentence each. `key` is the section's own: "tls"."""
    if not section.is_on:
        return []
    try:
        TlsFiles(section, key).read()
    except CertificateError as error:
        return list(error.problems)
    return []


class ServerTls:
    """TLS for a server's port. Raises CertificateError."""

    def __init__(self, section: TlsSection, metrics: Metrics, *, key: str = "tls", clock: Clock = SYSTEM_CLOCK) -> None:
        self._watched = WatchedFiles(TlsFiles(section, key), partial(_note_expiry, metrics, "server"), clock=clock)
        self._current = self._handed_over = _server_configuration(self._watched.material)
        newest: Any = self._newest  # the stubs do not know that it may return None
        self.credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._current, newest, require_client_authentication=section.client_ca_file is not None
        )

    async def follow(self) -> None:
        """Takes renewed files, for ever."""
        async with aclosing(self._watched.renewals()) as renewals:
            async for material in renewals:
                self._current = _server_configuration(material)

    def _newest(self) -> grpc.ServerCertificateConfiguration | None:
        """For gRPC, which calls it in a thread of its own before each handshake; None: the same as last time."""
        current = self._current
        if current is self._handed_over:
            return None
        self._handed_over = current
        return current


class ClientTls:
    """TLS for channels to another service. Raises CertificateError."""

    def __init__(self, section: ClientTlsSection, metrics: Metrics, *, key: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._watched = WatchedFiles(TlsFiles(section, key), partial(_note_expiry, metrics, "client"), clock=clock)
        self._server_name = section.server_name

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel that is made now."""
        material = self._watched.material
        key, chain = (material.pair.private_key, material.pair.certificate) if material.pair else (None, None)
        return grpc.ssl_channel_credentials(material.authorities, key, chain)

    @property
    def channel_options(self) -> list[tuple[str, str]]:
        """What such a channel needs besides."""
        return [("grpc.ssl_target_name_override", self._server_name)] if self._server_name else []

    async def follow(self, renewed: Callable[[], Awaitable[None]]) -> None:
        """Awaits `renewed` after each renewal of the files, for ever."""
        async with aclosing(self._watched.renewals()) as renewals:
            async for _ in renewals:
                await renewed()


def _server_configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    pairs = [(material.pair.private_key, material.pair.certificate)] if material.pair else []
    return grpc.ssl_server_certificate_configuration(pairs, material.authorities)


def _note_expiry(metrics: Metrics, side: str, material: Material) -> None:
    if material.pair:
        metrics.certificate_expiry.labels(side).set(material.pair.expires_at)
