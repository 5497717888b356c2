"""The settings of a whole service: the sections that every one has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import PrivateAttr

from service_kit.callers.settings import AuthSection
from service_kit.sections import (
    GrpcServerSection,
    LoggingSection,
    MetricsSection,
    Section,
    ServerSection,
    TlsSection,
    TracingSection,
)


class ServiceSettings(Section):
    """The settings of one service. Subclasses add sections and override defaults.

    `meaningless` names dotted keys of the earlier servers' files that have no effect here, each with the reason. They are
    accepted with one warning.
    """

    meaningless: ClassVar[Mapping[str, str]] = {}

    server: ServerSection = ServerSection()
    tls: TlsSection = TlsSection()
    auth: AuthSection = AuthSection()
    logging: LoggingSection = LoggingSection()
    metrics: MetricsSection = MetricsSection()
    tracing: TracingSection = TracingSection()

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of load_settings about accepted keys, one sentence each. The service logs them at start."""
        return self._warnings


class GrpcSettings(ServiceSettings):
    """The settings of a service that is called over gRPC."""

    server: GrpcServerSection = GrpcServerSection()
