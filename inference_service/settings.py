"""The inference service's configuration: the keys of the earlier servers and new ones, each with an effect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from avatar_kit.model_entry import ModelEntry
from service_kit.addresses import BindAddress
from service_kit.sections import GrpcServerSection, LoggingSection, Section
from service_kit.service_settings import GrpcSettings

EngineName: TypeAlias = Literal["auto", "onnxruntime", "openvino"]
PrecisionName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]


_KEPT = "loads"


class InferenceServerSection(GrpcServerSection):
    """The gRPC port and the work that it accepts."""

    port: BindAddress = BindAddress("", 50051)
    """Address for gRPC; ":N" means all interfaces, port 0 any free one."""

    worker_count_per_gpu: int = Field(default=1, ge=1, le=64)
    """Batches that run at the same time on each device (each GPU, or the CPU). One is best on a CPU."""

    queue_size: int = Field(default=64, ge=1, le=100_000)
    """Most requests of batch work that run or wait, per device; one more is refused at once with RESOURCE_EXHAUSTED. Those of
    live sessions are not counted."""


class GpuSection(Section):
    """Devices for the networks."""

    enabled: bool | Literal["auto"] = "auto"
    """true: GPUs, and a missing one is an error at start; false: the CPU; auto: GPUs if the GPU build of onnxruntime is
    installed, else the CPU."""

    count: int = Field(default=0, ge=0, le=64)
    """Number of GPUs to use, from GPU 0 up; 0: all that are visible."""

    memory_gb_per_gpu: float = Field(default=0, ge=0)
    """Memory for avatars on each GPU, in GiB; 0: no limit per GPU."""

    assignment_strategy: Literal["round-robin", "least-loaded", "dedicated"] = "round-robin"
    """GPU for an avatar without preferred_gpu: the next in turn, the one with the least memory taken by avatars, or (dedicated)
    one without another avatar, an error when there is none."""

    allow_multi_gpu_models: bool = False
    """Load each avatar on every GPU, and run each request on the one where the fewest frames wait."""


class CapacitySection(Section):
    """Limits on loaded avatars, and the choice of the one to unload."""

    max_models: int = Field(default=40, ge=1, le=100_000)
    """Avatars loaded at the same time."""

    max_memory_gb: float = Field(default=0, ge=0)
    """Memory of all loaded avatars together, in GiB; 0: no limit."""

    crops_gb_per_gpu: float = Field(default=2, ge=0)
    """Memory of each GPU for the crops of all avatars, in GiB, taken when the first is loaded: 307,200 bytes a picture, so 40
    avatars of 523 pictures take 6. Where it does not hold them all, the others cross with each run; 0: all do."""

    eviction_policy: Literal["lfu", "lru"] = "lfu"
    """Idle avatar to unload for room: the least frequently (lfu) or the least recently (lru) used."""

    idle_timeout_minutes: float = Field(default=0, ge=0)
    """Unload an avatar after this time without use; 0: never."""


class OnnxSection(Section):
    """ONNX Runtime."""

    providers: tuple[str, ...] = ()
    """Execution providers in order of preference, by ONNX Runtime's names; empty: CUDAExecutionProvider on GPUs, else
    CPUExecutionProvider."""

    intra_op_threads: int = Field(default=0, ge=0, le=1024)
    """Threads of one run; 0: one a core, and one in all for a network without convolutions."""

    inter_op_threads: int = Field(default=0, ge=0, le=1024)
    """Operators of one run in parallel; 0 and 1: one after the other."""

    cuda_streams_per_worker: int = Field(default=1, ge=1, le=16)
    """Sessions, each with a CUDA stream, that run networks of one graph on a GPU at the same time, for as many batches: the
    download of one overlaps the run of the next. On a CPU one serves all."""

    batch_buckets: tuple[Annotated[int, Field(ge=1, le=512)], ...] = ()
    """Frames of runs on a GPU besides batching.max_batch, smaller ones, so that a lone frame need not wait for a full run, such
    as 1, 2, 4. Each avatar uses those that give it the bytes of full runs, which its load finds out. Not run on a GPU yet."""

    cuda_graphs: bool = False
    """Let CUDA replay each run as one captured graph, except those with pictures that a caller sent, which a session beside it
    runs. Not run on a GPU yet."""

    tensorrt_cache: Path | None = None
    """Folder where TensorRT keeps what it compiles, which the service must be able to write; null: it compiles at each load."""

    prefer_nhwc: bool = False
    """Let CUDA keep channels last. With shared sessions it must turn the weights in every run."""

    share_sessions: bool | Literal["auto"] = "auto"
    """Run the networks that differ in nothing but their weights in the same sessions: an avatar then takes the memory of its
    weights and crops alone. auto: on GPUs with CUDA. true: on a CPU too, where a run takes longer; false: nowhere."""


class CacheSection(Section):
    """Work of loads that is kept for later ones, also after a restart: compiled networks, and how close they come to float32."""

    folder: Path | Literal["auto"] | None = "auto"
    """The folder; auto: lipsync in the user's folder of caches ($XDG_CACHE_HOME, or ~/.cache); null: nothing is kept. One that
    cannot be written is only read."""

    max_gb: float = Field(default=4.0, ge=0, le=65_536)
    """Size of all that is kept, in GiB; what was not used for longest goes first. A full-size network takes 49 MB."""

    @property
    def place(self) -> Path | None:
        """The folder, which only this user may write; None: nothing is kept."""
        if self.folder != "auto":
            return self.folder and self.folder / _KEPT
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # as it is without a home
        return Path(home) / "lipsync" / _KEPT if os.path.isabs(home) else None


class BatchingSection(Section):
    """Joining of frames of several requests into one run."""

    max_batch: int = Field(default=0, ge=0, le=512)
    """Most frames of a batch; 0: 8 on a GPU, 4 on a CPU, there up to 12 of a network that is quick."""

    max_delay_ms: float = Field(default=0, ge=0, le=1000)
    """Time that a batch waits for more frames while it is not full."""


class LimitsSection(Section):
    """Limits on requests, and on the time that networks take."""

    max_batch_size: int = Field(default=50, ge=1, le=10_000)
    """Output frames of one request."""

    max_audio_seconds: float = Field(default=60, gt=0, le=3600)
    """Sound in one request."""

    max_feature_rows: int = Field(default=2000, ge=1, le=100_000)
    """Rows of one EncodeAudio request."""

    admit_sessions: Literal["measured", "all"] = "measured"
    """measured: live sessions that could not be kept in real time are refused with RESOURCE_EXHAUSTED. all: none is, and when
    there are too many, frames of all of them are late."""

    run_seconds: float = Field(default=30, gt=0, le=86_400)
    """Longest run of a network or an audio encoder. One that takes longer is stopped, and its avatar refused with
    FAILED_PRECONDITION until it is loaded with force_reload."""

    load_seconds: float = Field(default=120, gt=0, le=86_400)
    """Longest step of loading an avatar: opening its network or audio encoder, or a run to warm it up. A longer one has the same
    consequence."""

    request_seconds: float = Field(default=120, gt=0, le=86_400)
    """Longest time for a request, also for one without a deadline."""


class InferenceLoggingSection(LoggingSection):
    """Choice and form of log lines."""

    log_inference_times: bool = False
    """An info line for each sampled request with the times of inference."""

    log_gpu_utilization: bool = False
    """An info line with load and memory of each GPU, every report_interval_seconds."""


class InferenceSettings(GrpcSettings):
    """All keys of the inference service."""

    meaningless: ClassVar[Mapping[str, str]] = {
        "onnx.library_path": "ONNX Runtime comes with the Python package onnxruntime or onnxruntime-gpu",
        "logging.log_compositing_times": "the inference service composites nothing; set it for the compositing service",
    }

    server: InferenceServerSection = InferenceServerSection()
    logging: InferenceLoggingSection = InferenceLoggingSection()
    gpus: GpuSection = GpuSection()
    capacity: CapacitySection = CapacitySection()
    onnx: OnnxSection = OnnxSection()
    cache: CacheSection = CacheSection()
    batching: BatchingSection = BatchingSection()
    limits: LimitsSection = LimitsSection()

    engine: EngineName = "auto"
    """The program that runs networks on a CPU: ONNX Runtime, OpenVINO, or (auto) OpenVINO where it can use precision bfloat16."""

    precision: PrecisionName = "auto"
    """That of networks. auto: on a CPU bfloat16 where the processor has it (AMX, AVX512_BF16) and the avatar's mouths come within
    45 dB of those in float32, else float32. bfloat16: also where they do not, and for the audio encoder. float16: on GPUs, of
    avatars whose mouths come within 50 dB."""

    models_root: Path = Path("models")
    """The folder of the avatars."""

    audio_encoder_path: Path | None = None
    """The shared audio encoder; null: audio_encoder.onnx in models_root. An avatar's own encoder wins."""

    models: dict[str, ModelEntry] = Field(default_factory=dict)
    """Settings of single avatars, and avatars in the old layouts."""
