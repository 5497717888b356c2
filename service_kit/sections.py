"""The sections of configuration that services share.

Each field's docstring is its line in docs/configuration.md. Every key here has an effect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from service_kit.addresses import BindAddress


class Section(BaseModel):
    """A group of keys. It is frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
        defer_build=True,  # a service builds those of its own settings
        protected_namespaces=(),  # allows model_path, a name of the earlier servers' files
    )


class ServerSection(Section):
    """The address of a service, the limit of its work and its end."""

    port: BindAddress = BindAddress("", 50051)
    """Address for gRPC; ":N" means all interfaces, port 0 any free one."""

    max_running_calls: int = Field(default=1024, ge=1, le=1_000_000)
    """Limit of calls at the same time; more are refused with RESOURCE_EXHAUSTED. Health checks and reflection do not count."""

    drain_seconds: float = Field(default=0.25, ge=0, le=600)
    """After SIGTERM, the service serves so long while health says NOT_SERVING. The default suits clients that watch health;
    behind a load balancer, set the time that it needs to notice. Calls that come later fail."""

    grace_seconds: float = Field(default=30.0, ge=0, le=3600)
    """After the drain, running calls may take so long to finish before they are cut off."""


class GrpcServerSection(ServerSection):
    """The server section, with the limits of gRPC messages and connections."""

    max_message_size_mb: int = Field(default=100, ge=1, le=2047)
    """Size limit of requests and replies, in MiB; larger ones are refused with RESOURCE_EXHAUSTED."""

    max_request_size_mb: int = Field(default=64, ge=1, le=2047)
    """A smaller limit for requests, and for each message of a stream, in MiB: 60 s of sound at 192 kHz have 44."""

    max_requests_in_memory_mb: int = Field(default=256, ge=1, le=1_000_000)
    """Requests of 1 MiB and more under way may have so much in all; one more is refused with RESOURCE_EXHAUSTED."""

    max_replies_in_memory_mb: int = Field(default=512, ge=1, le=1_000_000)
    """Replies of 1 MiB and more that callers have not taken may have so much in all; one more is refused with RESOURCE_EXHAUSTED.
    Streams are limited otherwise."""

    receive_seconds: float = Field(default=30.0, ge=1, le=3600)
    """A request must be there so long after its call began, or the call ends with DEADLINE_EXCEEDED."""

    max_streams_per_connection: int = Field(default=1024, ge=1, le=1_000_000)
    """Calls at the same time over one connection; further ones wait at the client."""

    keepalive_seconds: float = Field(default=30.0, ge=1, le=86400)
    """Pings a connection after so long without traffic, to notice peers that are gone."""

    keepalive_timeout_seconds: float = Field(default=10.0, ge=1, le=3600)
    """Closes a connection on which a ping has no answer for so long."""

    min_ping_interval_seconds: float = Field(default=5.0, ge=0.1, le=3600)
    """Disconnects clients that ping more often than this, with "too_many_pings"."""

    max_connection_age_seconds: float | None = Field(default=None, ge=1, le=31_536_000)
    """Asks clients to reconnect after so long, so that they find new replicas; null: never."""

    max_connection_age_grace_seconds: float = Field(default=3600.0, ge=0, le=31_536_000)
    """Lets calls on a connection past its age finish within so long: more than the longest stream."""


class _TlsFilesSection(Section):
    """Keys for both sides of a TLS connection."""

    enabled: bool | Literal["auto"] = "auto"
    """true: TLS, and a missing file is an error at start; false: plaintext; auto: TLS if another key of this section except
    reload_seconds is given."""

    certificate_file: Path | None = None
    """This service's certificate, with its chain, in PEM form."""

    key_file: Path | None = None
    """The private key of certificate_file, PEM, without a password."""

    reload_seconds: float = Field(default=10.0, ge=0.1, le=86_400)
    """Interval of looks for changed files. When the next look sees the same files, new connections use them, without a restart.
    Files that cannot be used are logged, and the old ones stay in use."""

    @property
    def is_on(self) -> bool:
        """True when connections are encrypted."""
        if self.enabled == "auto":
            return any(value for name, value in self if name not in {"enabled", "reload_seconds"})
        return self.enabled


class TlsSection(_TlsFilesSection):
    """TLS on the gRPC port. The HTTP endpoint for metrics and health stays plaintext: keep its port on an internal network."""

    client_ca_file: Path | None = None
    """Clients must present a certificate signed by one of these authorities (mTLS), PEM; null: clients need none."""

    allowed_client_names: tuple[str, ...] = ()
    """Serves only clients whose certificate has one of these names as an alternative name (DNS name, URI, address), or, if it
    has no alternative names, as its common name. Health checks and reflection are open to every certificate. Empty: all names."""


class ClientTlsSection(_TlsFilesSection):
    """TLS towards another service. certificate_file and key_file are for services that ask for a certificate (mTLS)."""

    ca_file: Path | None = None
    """The authorities that may have signed the service's certificate, PEM; null: those that come with gRPC."""

    server_name: str | None = Field(default=None, min_length=1, max_length=253)
    """The name that the service's certificate must have; null: the host of the URL."""


LogLevel = Literal["debug", "info", "warning", "error"]


def _level_name(given: object) -> object:
    """Accepts "INFO" and "warn" of the earlier servers' files."""
    if not isinstance(given, str):
        return given
    name = given.strip().lower()
    return "warning" if name == "warn" else name


class LoggingSection(Section):
    """The choice of log lines, and the way of writing them. All go to stderr.

    Services add switches named `log_*`. Each switches the info lines of a `service_kit.logs.topic`.
    """

    level: Annotated[LogLevel, BeforeValidator(_level_name)] = Field(
        default="info", validation_alias=AliasChoices("level", "log_level")
    )
    """The least severe lines that are written; debug: those of libraries are left out. The old name log_level is accepted too."""

    format: Literal["text", "json"] = "text"
    """Aligned text for people, or one JSON object a line for machines."""

    log_cache_stats: bool = False
    """Logs loaded avatars, their bytes, hits and evictions, every report_interval_seconds."""

    report_interval_seconds: float = Field(default=60.0, ge=0.1, le=86400)
    """Interval of the repeating lines."""

    sample_rate: int = Field(default=1, ge=1, le=1_000_000)
    """Writes info lines about one request in this number. All services choose the same requests, by request id."""

    buffered_logging: bool = True
    """A separate thread formats and writes lines; false: the caller does so at once, so that a crash loses none."""

    auto_flush: bool = True
    """Writes buffered lines at once; false: every flush_interval_ms. Warnings never wait."""

    flush_interval_ms: int = Field(default=1000, ge=10, le=60_000)
    """Longest wait of a buffered line when auto_flush is false."""


class MetricsSection(Section):
    """The HTTP endpoint with /metrics, /health/live and /health/ready."""

    enabled: bool = True
    """Opens the endpoint."""

    port: BindAddress | None = None
    """Its address; null: the host of server.port, or 127.0.0.1 in place of all interfaces, at that port + 3000, or, with a
    warning, any free port if that is taken."""


def _check_collector(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise ValueError(f"{url[:80]!r} is not http://HOST:PORT or https://HOST:PORT")
    return url


class TracingSection(Section):
    """Spans of OpenTelemetry: calls, waiting, sound, network, frames. OTEL_EXPORTER_OTLP_* in the environment, which are the
    library's own, give headers and certificates."""

    endpoint: Annotated[str, AfterValidator(_check_collector)] | None = None
    """The collector, which takes OTLP over gRPC, such as http://jaeger:4317; null: none, and a caller's trace is passed on."""

    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """The share of traces that begin here and are recorded. Of a caller's trace, what the caller decided."""
