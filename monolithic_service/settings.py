"""The configuration of both halves in one process: the keys of both services, and those of the earlier monolithic server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from pydantic import Field

from avatar_kit.ids import AvatarId
from avatar_kit.model_entry import ModelEntry
from compositing_service import settings as compositing
from gateway_service import settings as gateway_settings
from inference_service import settings as inference
from service_kit.addresses import BindAddress
from service_kit.limits.settings import QuotasSection
from service_kit.sections import LoggingSection, MetricsSection, Section, ServerSection
from service_kit.service_settings import GrpcSettings, ServiceSettings

T = TypeVar("T", bound=Section)


class MonolithicServerSection(inference.InferenceServerSection):
    """The gRPC ports and the work that they accept. All gRPC services are served at each port."""

    port: BindAddress = BindAddress("", 50053)
    """Address for clients of monolithic.MonolithicService; ":N" means all interfaces, port 0 any free one."""

    compositing_port: BindAddress = BindAddress("", 50052)
    """Address for clients of compositing.CompositingService, in the same forms."""

    inference_port: BindAddress = BindAddress("", 50051)
    """Address for clients of inference.InferenceService, in the same forms."""

    optimized_lipsyncsrv: bool = True
    """Serves the earlier direct server's clients too: optimized_lipsyncsrv.OptimizedLipSyncService."""


class MonolithicCapacitySection(inference.CapacitySection, compositing.CapacitySection):
    """Limits on loaded avatars, and the choice of the one to unload."""

    max_memory_gb: float = Field(default=0, ge=0)
    """Memory for the networks and crops of all loaded avatars together, in GiB; 0: no limit."""

    max_background_memory_gb: float = Field(default=4.0, gt=0, le=65_536)
    """Memory for the backgrounds of all avatars together, in GiB; about 70 MB for an avatar of 523 pictures of 1280x720."""


class MonolithicLoggingSection(inference.InferenceLoggingSection, compositing.CompositingLoggingSection):
    """The choice of log lines, and the way of writing them."""


class MonolithicMetricsSection(MetricsSection):
    """The HTTP endpoint with /metrics, /health/live and /health/ready."""

    port: BindAddress | None = None
    """Its address; null: the host of server.compositing_port, or 127.0.0.1 in place of all interfaces, at that port + 3000, or,
    with a warning, any free port if that is taken."""


class GatewaySection(gateway_settings.GatewaySections):
    """The gateway for browsers, in the same process."""

    enabled: bool = True
    """Serves browsers too."""

    port: BindAddress = BindAddress("", 8086)
    """Address for WebSocket and HTTP; ":N" means all interfaces, port 0 any free one."""

    metrics: MetricsSection = MetricsSection()
    compositing_server: gateway_settings.CompositingConnectionSection = gateway_settings.CompositingConnectionSection()


class MonolithicSettings(GrpcSettings):
    """All keys of `lipsync serve all`."""

    meaningless: ClassVar[Mapping[str, str]] = {
        "onnx.library_path": inference.InferenceSettings.meaningless["onnx.library_path"],
        "inference_server": "this process makes the mouths itself",
    }

    server: MonolithicServerSection = MonolithicServerSection()
    logging: MonolithicLoggingSection = MonolithicLoggingSection()
    metrics: MonolithicMetricsSection = MonolithicMetricsSection()
    gpus: inference.GpuSection = inference.GpuSection()
    capacity: MonolithicCapacitySection = MonolithicCapacitySection()
    onnx: inference.OnnxSection = inference.OnnxSection()
    cache: inference.CacheSection = inference.CacheSection()
    batching: inference.BatchingSection = inference.BatchingSection()
    limits: inference.LimitsSection = inference.LimitsSection()
    output: compositing.OutputSection = compositing.OutputSection()
    sessions: compositing.SessionsSection = compositing.SessionsSection()
    quotas: QuotasSection = QuotasSection()
    workers: compositing.WorkersSection = compositing.WorkersSection()
    gateway: GatewaySection = GatewaySection()

    engine: inference.EngineName = "auto"
    """The program that runs networks on a CPU: ONNX Runtime, OpenVINO, or (auto) OpenVINO where it can use precision bfloat16."""

    precision: inference.PrecisionName = "auto"
    """That of networks. auto: on a CPU bfloat16 where the processor has it (AMX, AVX512_BF16) and the avatar's mouths come within
    45 dB of those in float32, else float32. bfloat16: also where they do not. float16: on GPUs, of avatars whose mouths come
    within 50 dB."""

    models_root: Path = Path("models")
    """The folder of the avatars. The service serves every avatar in it."""

    audio_encoder_path: Path | None = None
    """The shared audio encoder; null: audio_encoder.onnx in models_root. An avatar's own encoder wins."""

    models: dict[AvatarId, ModelEntry] = Field(default_factory=dict)
    """Settings of single avatars, and avatars in the earlier servers' layouts."""

    @property
    def of_inference(self) -> inference.InferenceSettings:
        """The settings of the half that makes mouths."""
        return inference.InferenceSettings(
            server=self.server,
            logging=self.logging,
            gpus=self.gpus,
            capacity=self.capacity,
            onnx=self.onnx,
            cache=self.cache,
            batching=self.batching,
            limits=self.limits,
            engine=self.engine,
            precision=self.precision,
            models_root=self.models_root,
            audio_encoder_path=self.audio_encoder_path,
            models=self.models,
        )

    @property
    def of_compositing(self) -> compositing.CompositingSettings:
        """The settings of the half that makes pictures."""
        capacity = self.capacity
        return compositing.CompositingSettings(
            server=_shared(self.server, compositing.CompositingServerSection),
            logging=self.logging,
            capacity=capacity.model_copy(update={"max_memory_gb": capacity.max_background_memory_gb}),
            output=self.output,
            limits=_shared(self.limits, compositing.LimitsSection),
            sessions=self.sessions,
            quotas=self.quotas,
            workers=self.workers,
            models_root=self.models_root,
            models=self.models,
        )

    @property
    def of_gateway(self) -> gateway_settings.GatewaySettings:
        """The settings of the gateway. It finds the compositing service by its address, once that is open."""
        own = self.gateway
        given = {name: getattr(own, name) for name in gateway_settings.GatewaySections.model_fields}
        server = _shared(self.server, ServerSection)
        return gateway_settings.GatewaySettings(
            server=gateway_settings.GatewayServerSection(
                port=own.port, drain_seconds=server.drain_seconds, grace_seconds=server.grace_seconds
            ),
            tls=self.tls,
            auth=self.auth,
            logging=_shared(self.logging, LoggingSection),
            metrics=own.metrics,
            compositing_server=gateway_settings.CompositingServerSection(**dict(own.compositing_server)),
            **given,
        )


def _shared(section: Section, kind: type[T]) -> T:
    """Returns a section of another kind with the values of the keys that both have."""
    return kind(**{name: value for name, value in section if name in kind.model_fields})


SETTINGS: Final[Mapping[str, type[ServiceSettings]]] = {
    "inference": inference.InferenceSettings,
    "compositing": compositing.CompositingSettings,
    "all": MonolithicSettings,
}
"""The settings of each service, by its name for `lipsync serve`."""
