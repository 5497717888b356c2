"""The compositing service's configuration: the earlier servers' keys and ours. Each has an effect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from avatar_kit.cores import usable_cores
from avatar_kit.ids import AvatarId
from avatar_kit.model_entry import ModelEntry
from service_kit.addresses import BindAddress
from service_kit.limits.settings import QuotasSection
from service_kit.sections import ClientTlsSection, GrpcServerSection, LoggingSection, Section
from service_kit.service_settings import GrpcSettings

_BYTES_PER_GB = 1 << 30
_HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>\d{1,5})")
_DNS = re.compile(r"dns://[A-Za-z0-9.:_-]*/(?P<address>.+)")


class CompositingServerSection(GrpcServerSection):
    """The gRPC port and the work that it accepts."""

    port: BindAddress = BindAddress("", 50052)
    """Address for gRPC; ":N" means all interfaces, port 0 any free one."""


def parse_endpoints(url: str) -> tuple[str, ...]:
    """Returns the gRPC targets of a URL: one host:port, several separated by commas, or one dns:///name:port.

    Raises ValueError with a sentence that names the part that does not fit.
    """
    if match := _DNS.fullmatch(url.strip()):
        _check_address(match["address"])
        return (url.strip(),)
    parts = [part.strip() for part in url.split(",")]
    for part in parts:
        _check_address(part)
    if len(set(parts)) < len(parts):
        raise ValueError(f"{url!r} names the same endpoint twice")
    return tuple(parts)


def _check_address(text: str) -> None:
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError(f"{text[:80]!r} is not HOST:PORT; give one HOST:PORT, several separated by commas, or dns:///NAME:PORT")


class InferenceServerSection(Section):
    """The inference service, which makes the mouths."""

    url: Annotated[str, AfterValidator(lambda url: parse_endpoints(url) and url)] = "localhost:50051"
    """HOST:PORT. Or several, separated by commas: requests go to them in turn, LoadModel and UnloadModel to each of them. Or
    dns:///NAME:PORT: requests go to the name's addresses in turn, LoadModel and UnloadModel to one of them."""

    timeout_seconds: float = Field(default=10.0, gt=0, le=3600)
    """Longest wait for the next mouths of a request, retries included; then DEADLINE_EXCEEDED. A request whose mouths keep coming
    may take longer as a whole. A caller's earlier deadline wins."""

    max_retries: int = Field(default=3, ge=0, le=20)
    """Retries of one request while the service cannot be reached, 50 to 500 ms apart; then UNAVAILABLE."""

    api_key_file: Path | None = None
    """A file with the API key that calls carry, where the service asks for one; it needs the scopes infer and admin there. It is
    read again when it changes."""

    tls: ClientTlsSection = ClientTlsSection()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The gRPC targets that `url` names."""
        return parse_endpoints(self.url)


class CapacitySection(Section):
    """Limits of memory, and the order of eviction."""

    max_models: int = Field(default=1000, ge=1, le=100_000)
    """Avatars loaded at the same time."""

    max_memory_gb: float = Field(default=4.0, gt=0, le=65_536)
    """Memory for the backgrounds of all avatars together, in GiB; about 70 MB for an avatar of 523 pictures of 1280x720."""

    background_cache_frames: int = Field(default=600, ge=1, le=1_000_000)
    """Encoded backgrounds in memory for one avatar. The others of a longer avatar are encoded again when needed."""

    eviction_policy: Literal["lfu", "lru"] = "lfu"
    """Evicts the least frequently (lfu) or the least recently (lru) used avatar first."""

    idle_timeout_minutes: float = Field(default=0.0, ge=0, le=525_600)
    """Unloads an avatar after this many minutes without use; 0: never."""


class OutputSection(Section):
    """The output of requests that do not name one."""

    format: Literal["jpeg", "raw"] = "jpeg"
    """jpeg, or raw: height rows of width pixels of B, G, R, uint8 each."""

    jpeg_quality: int = Field(default=75, ge=1, le=100)
    """JPEG quality. Backgrounds are encoded with it beforehand; other qualities cost an encoding of each background."""


class LimitsSection(Section):
    """Limits of one request."""

    max_batch_size: int = Field(default=50, ge=1, le=10_000)
    """Frames of one request. The inference service has such a limit too."""

    max_audio_seconds: float = Field(default=60.0, gt=0, le=3600)
    """Sound in one request."""


class SessionsSection(Section):
    """Bounds of live sessions."""

    max_buffered_seconds: float = Field(default=5.0, ge=3, le=3600)
    """Sound received and not shown; beyond it no more is read until there is room. Five seconds take 320 KB. Three are the least:
    a segment waits for its look-ahead and a cushion of up to two seconds."""

    idle_timeout_seconds: float = Field(default=300.0, ge=0, le=86_400)
    """Ends a session without a message for so long while it has nothing to show, with DEADLINE_EXCEEDED; 0: never."""

    max_seconds: float = Field(default=0.0, ge=0, le=31_536_000)
    """The longest session; it is told beforehand, and clients resume elsewhere. 0: no limit."""

    reader_timeout_seconds: float = Field(default=30.0, gt=0, le=3600)
    """Ends a session whose client takes no frames for so long, with RESOURCE_EXHAUSTED."""

    max_h264: int | None = Field(default=None, ge=0, le=10_000)
    """Sessions at the same time that are sent H.264, of 1280x720; larger pictures count for more, by their pixels. Encoding one
    takes about a sixth of a core. Unset: three for each core; 0: none."""

    inference_timeout_seconds: float = Field(default=10.0, gt=0, le=3600)
    """Sessions wait for the inference service for so long while it cannot be reached; then UNAVAILABLE."""


class WorkersSection(Section):
    """Threads for pasting and encoding."""

    threads: int = Field(default=0, ge=0, le=1024)
    """Frames composited at the same time; 0: one for each core that this process may use."""

    @property
    def thread_count(self) -> int:
        """The number of threads to start."""
        return self.threads or usable_cores()


class CompositingLoggingSection(LoggingSection):
    """The choice of log lines, and the way of writing them."""

    log_inference_times: bool = False
    """Logs the times of inference for each sampled request."""

    log_compositing_times: bool = False
    """Logs the times of compositing for each sampled request."""


class CompositingSettings(GrpcSettings):
    """All settings of the compositing service."""

    meaningless: ClassVar = {
        "logging.log_gpu_utilization": "the compositing service uses no GPU; set it for the inference service",
    }

    server: CompositingServerSection = CompositingServerSection()
    logging: CompositingLoggingSection = CompositingLoggingSection()
    inference_server: InferenceServerSection = InferenceServerSection()
    capacity: CapacitySection = CapacitySection()
    output: OutputSection = OutputSection()
    limits: LimitsSection = LimitsSection()
    sessions: SessionsSection = SessionsSection()
    quotas: QuotasSection = QuotasSection()
    workers: WorkersSection = WorkersSection()

    models_root: Path = Path("models")
    """The folder of the avatars. The service serves every avatar in it."""

    models: dict[AvatarId, ModelEntry] = Field(default_factory=dict)
    """Settings of single avatars, and avatars in the earlier servers' layouts."""

    @property
    def max_memory_bytes(self) -> int:
        """`capacity.max_memory_gb` in bytes."""
        return int(self.capacity.max_memory_gb * _BYTES_PER_GB)

    @property
    def max_message_bytes(self) -> int:
        """`server.max_message_size_mb` in bytes."""
        return self.server.max_message_size_mb << 20
