"""The sections of configuration that every service has.

Each field's docstring is its line in docs/configuration.md. A key stands here only if something reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from service_kit.addresses import BindAddress


class Section(BaseModel):
    """A group of keys: unchangeable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),  # the old files' model_path is a fine name
    )


class ServerSection(Section):
    """Where a service listens, the work that it lets in and how it goes."""

    port: BindAddress = BindAddress("", 50051)
    """Where gRPC listens; ":N" means all interfaces, port 0 any free one."""

    max_running_calls: int = Field(default=1024, ge=1, le=1_000_000)
    """Calls served at the same time; more are refused with RESOURCE_EXHAUSTED. Health checks and reflection do not count."""

    drain_seconds: float = Field(default=0.25, ge=0, le=600)
    """On SIGTERM: how long to go on serving while health says NOT_SERVING. The default is for clients that watch health; behind a
    load balancer as long as it needs to notice. Calls that still come after it are lost to them."""

    grace_seconds: float = Field(default=30.0, ge=0, le=3600)
    """On SIGTERM, after the drain: how long running calls may take to finish before they are cut off."""


class GrpcServerSection(ServerSection):
    """How a gRPC server treats its connections."""

    max_message_size_mb: int = Field(default=100, ge=1, le=2047)
    """Largest request and reply, in MiB; larger ones are refused with RESOURCE_EXHAUSTED."""

    keepalive_seconds: float = Field(default=30.0, ge=1, le=86400)
    """After so long without traffic a connection is pinged, to notice peers that are gone."""

    keepalive_timeout_seconds: float = Field(default=10.0, ge=1, le=3600)
    """A ping not answered for so long closes the connection."""

    min_ping_interval_seconds: float = Field(default=5.0, ge=0.1, le=3600)
    """Clients that ping more often than this are disconnected with "too_many_pings"."""

    max_connection_age_seconds: float | None = Field(default=None, ge=1, le=31_536_000)
    """Asks clients to reconnect after so long, so that they find new replicas; null never does."""

    max_connection_age_grace_seconds: float = Field(default=3600.0, ge=0, le=31_536_000)
    """How long a connection past its age may still finish its calls: longer than the longest stream."""


class _TlsFilesSection(Section):
    """What both sides of a TLS connection have."""

    enabled: bool | Literal["auto"] = "auto"
    """true: TLS, and what is missing for it is an error at start; false: plaintext; auto: TLS exactly when another key of this
    section, reload_seconds apart, is given."""

    certificate_file: Path | None = None
    """The own certificate, with its chain, in PEM form."""

    key_file: Path | None = None
    """The private key of certificate_file, PEM, without a password."""

    reload_seconds: float = Field(default=10.0, ge=0.1, le=86_400)
    """How often to look whether the files have changed. When they are the same at the next look too, they are taken for all
    further connections, without a restart; if they cannot be used, that is logged and the old ones stay."""

    @property
    def is_on(self) -> bool:
        """Whether connections are encrypted."""
        if self.enabled == "auto":
            return any(value for name, value in self if name not in {"enabled", "reload_seconds"})
        return self.enabled


class TlsSection(_TlsFilesSection):
    """TLS on the gRPC port. The HTTP endpoint for metrics and health stays plaintext: keep its port on an internal network."""

    client_ca_file: Path | None = None
    """Clients must present a certificate signed by one of these authorities (mTLS), PEM; null: none is asked for."""

    allowed_client_names: tuple[str, ...] = ()
    """Serve only clients whose certificate bears one of these names as an alternative name (DNS name, URI, address), or, where it
    has no alternative names, as its common name. Health checks and reflection are open to every certificate. Empty: all names."""


class ClientTlsSection(_TlsFilesSection):
    """TLS towards another service. certificate_file and key_file are for services that ask for a certificate (mTLS)."""

    ca_file: Path | None = None
    """The authorities that may have signed the service's certificate, PEM; null: those that gRPC brings along."""

    server_name: str | None = Field(default=None, min_length=1, max_length=253)
    """The name that the service's certificate must carry; null: the host of the URL."""


LogLevel = Literal["debug", "info", "warning", "error"]


def _level_name(given: object) -> object:
    """The old files say "INFO" and "warn" too."""
    if not isinstance(given, str):
        return given
    name = given.strip().lower()
    return "warning" if name == "warn" else name


class LoggingSection(Section):
    """The choice of log lines, and how they are written. All go to stderr.

    Services add switches named `log_*`; each stands for the info lines of `service_kit.logs.topic`.
    """

    level: Annotated[LogLevel, BeforeValidator(_level_name)] = Field(
        default="info", validation_alias=AliasChoices("level", "log_level")
    )
    """The least severe lines that are written. The old name log_level is accepted too."""

    format: Literal["text", "json"] = "text"
    """Aligned text for people, or one JSON object a line for machines."""

    log_cache_stats: bool = False
    """An info line with what is loaded, its bytes, hits and evictions, every report_interval_seconds."""

    report_interval_seconds: float = Field(default=60.0, ge=0.1, le=86400)
    """How often the repeating lines are written."""

    sample_rate: int = Field(default=1, ge=1, le=1_000_000)
    """Info lines about single requests are written for one request of so many, chosen by request id, so by all services alike."""

    buffered_logging: bool = True
    """Lines are formatted and written by a thread of their own; false: by the caller, at once, so that a crash loses none."""

    auto_flush: bool = True
    """Buffered lines are written as they come; false: every flush_interval_ms. Warnings never wait."""

    flush_interval_ms: int = Field(default=1000, ge=10, le=60_000)
    """How long a buffered line may wait when auto_flush is false."""


class MetricsSection(Section):
    """The HTTP endpoint with /metrics, /health/live and /health/ready."""

    enabled: bool = True
    """Whether the endpoint is opened."""

    port: BindAddress | None = None
    """Where it listens; null: on the gRPC host at the gRPC port + 3000, or, with a warning, at any free port if that is taken."""


class ServiceSettings(Section):
    """The settings of one service; subclasses add their sections and override defaults.

    `meaningless` names dotted keys that old files carry and that mean nothing here, each with the reason: they are accepted with
    one warning. `models.*.key` names a key of every entry of a map.
    """

    meaningless: ClassVar[Mapping[str, str]] = {}

    server: ServerSection = ServerSection()
    tls: TlsSection = TlsSection()
    logging: LoggingSection = LoggingSection()
    metrics: MetricsSection = MetricsSection()

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What load_settings has to say about accepted keys, one sentence each; the service logs them at start."""
        return self._warnings


class GrpcSettings(ServiceSettings):
    """The settings of one service that is called over gRPC."""

    server: GrpcServerSection = GrpcServerSection()
