"""Existing clients' protocol, written once more by hand: never generated from our .proto files, so that it can judge them.

`pool_of` makes protobuf classes from it, which is all that a client needs.
"""

from __future__ import annotations

import re

from google.protobuf import descriptor_pb2, descriptor_pool

UNARY_METHODS = ("ListModels", "LoadModel", "UnloadModel", "GetModelStats", "Health")

INFERENCE = """
InferBatchRequest: string model_id=1; bytes visual_frames=2; bytes raw_audio=3; bytes audio_features=4; int32 batch_size=5; \
int32 sample_rate=6
InferBatchResponse: repeated RawMouthRegion outputs=1; float inference_time_ms=2; float audio_processing_ms=3; bool success=4; \
string error=5; int32 worker_id=6; int32 gpu_id=7
RawMouthRegion: bytes data=1
ListModelsRequest:
ListModelsResponse: repeated ModelInfo models=1
LoadModelRequest: string model_id=1; bool force_reload=2
LoadModelResponse: bool success=1; string error=2; float load_time_ms=3; ModelStats stats=4
UnloadModelRequest: string model_id=1
UnloadModelResponse: bool success=1; string error=2
GetModelStatsRequest: string model_id=1
GetModelStatsResponse: repeated ModelInfo models=1; int32 max_models=2; int32 loaded_models=3; int64 total_memory_bytes=4; \
int64 max_memory_bytes=5
HealthRequest:
HealthResponse: bool healthy=1; bool cuda_available=2; int32 loaded_models=3; int32 max_models=4; int32 gpu_count=5; \
string version=6; repeated GPUInfo gpus=7
GPUInfo: int32 gpu_id=1; string name=2; int64 total_memory_bytes=3; int64 used_memory_bytes=4; int32 loaded_models=5
ModelInfo: string model_id=1; bool loaded=2; string model_path=3; ModelStats stats=4; int32 gpu_id=5
ModelStats: int64 usage_count=1; int64 last_used_unix_ms=2; double total_inference_time_ms=3; int64 memory_bytes=4; \
int64 loaded_unix_ms=5
"""

COMPOSITING = """
CompositeBatchRequest: string model_id=1; bytes visual_frames=2; bytes raw_audio=3; bytes audio_features=4; int32 batch_size=5; \
int32 start_frame_idx=6; int32 sample_rate=7
CompositeBatchResponse: repeated bytes composited_frames=1; float inference_time_ms=2; float composite_time_ms=3; \
float total_time_ms=4; float audio_processing_ms=5; bool model_loaded=6; float model_load_time_ms=7; bool success=8; \
string error=9; int32 gpu_id=10
ListModelsRequest:
ListModelsResponse: repeated ModelInfo models=1
LoadModelRequest: string model_id=1; bool force_reload=2
LoadModelResponse: bool success=1; string error=2; float load_time_ms=3; ModelStats stats=4
UnloadModelRequest: string model_id=1
UnloadModelResponse: bool success=1; string error=2
GetModelStatsRequest: string model_id=1
GetModelStatsResponse: repeated ModelInfo models=1; int32 max_models=2; int32 loaded_models=3; int64 total_memory_bytes=4; \
int64 max_memory_bytes=5
HealthRequest:
HealthResponse: bool healthy=1; bool inference_server_healthy=2; int32 loaded_models=3; int32 max_models=4; string version=5; \
string inference_server_url=6
ModelInfo: string model_id=1; bool loaded=2; string model_path=3; string background_dir=4; string crop_rects_path=5; \
ModelStats stats=6
ModelStats: int64 usage_count=1; int64 last_used_unix_ms=2; double total_inference_time_ms=3; int64 memory_bytes=4; \
int64 loaded_unix_ms=5
"""

MONOLITHIC = """
CompositeBatchRequest: string model_id=1; bytes visual_frames=2; bytes raw_audio=3; bytes audio_features=4; int32 batch_size=5; \
int32 start_frame_idx=6; int32 sample_rate=7
CompositeBatchResponse: repeated bytes composited_frames=1; float inference_time_ms=2; float composite_time_ms=3; \
float total_time_ms=4; float audio_processing_ms=5; bool model_loaded=6; float model_load_time_ms=7; bool success=8; \
string error=9; int32 gpu_id=10
ListModelsRequest:
ListModelsResponse: repeated ModelInfo models=1
LoadModelRequest: string model_id=1; int32 preferred_gpu=2
LoadModelResponse: bool success=1; string error=2; int32 gpu_id=3; float load_time_ms=4
UnloadModelRequest: string model_id=1
UnloadModelResponse: bool success=1; string error=2
GetModelStatsRequest:
GetModelStatsResponse: repeated ModelStats models=1
HealthRequest:
HealthResponse: bool healthy=1; int32 loaded_models=2; int32 max_models=3; repeated int32 gpu_ids=4; \
repeated float gpu_memory_used_gb=5
ModelInfo: string model_id=1; bool loaded=2; int32 gpu_id=3; int64 memory_mb=4; int32 request_count=5; float avg_inference_ms=6
ModelStats: string model_id=1; bool loaded=2; int32 gpu_id=3; int64 memory_mb=4; int32 request_count=5; \
int64 total_inference_ms=6; float avg_inference_ms=7; int64 last_used_timestamp=8
"""

OPTIMIZED = """
OptimizedInferenceRequest: string model_name=1; int32 frame_id=2
OptimizedInferenceResponse: bool success=1; bytes prediction_data=2; repeated float bounds=3; int32 processing_time_ms=4; \
string model_name=5; int32 frame_id=6; string prediction_shape=7; optional string error=8; double prepare_time_ms=9; \
double inference_time_ms=10; double composite_time_ms=11; repeated string optimizations=12
BatchInferenceRequest: string model_name=1; repeated int32 frame_ids=2
BatchInferenceWithAudioRequest: string model_name=1; int32 start_frame_id=2; int32 frame_count=3; repeated bytes audio_chunks=4
BatchInferenceResponse: repeated OptimizedInferenceResponse responses=1; int32 total_processing_time_ms=2; \
double avg_frame_time_ms=3
LoadPackageRequest: string package_name=1; string package_dir=2
LoadPackageResponse: bool success=1; string package_name=2; string message=3; int32 initialization_time_ms=4; \
int32 frame_count=5; string device=6; repeated string videos_loaded=7; repeated int32 audio_features_shape=8; \
bool memory_mapped_audio=9; optional string error=10
StatsRequest: string model_name=1
StatsResponse: string model_name=1; int32 total_requests=2; double avg_inference_time_ms=3; double min_inference_time_ms=4; \
double max_inference_time_ms=5; int32 frame_count=6; string device=7; repeated string optimizations_active=8
ListModelsRequest:
ListModelsResponse: repeated string loaded_models=1; int32 count=2
HealthRequest:
HealthResponse: bool healthy=1; string status=2; int32 loaded_models=3; int64 uptime_seconds=4
GetVideoFrameRequest: string model_name=1; int32 frame_id=2; string video_type=3
GetVideoFrameResponse: bool success=1; bytes frame_data=2; int32 frame_id=3; string video_type=4; optional string error=5
GetModelMetadataRequest: string model_name=1
GetModelMetadataResponse: bool success=1; string model_name=2; int32 frame_count=3; repeated string available_videos=4; \
string audio_path=5; repeated float bounds=6; optional string error=7
"""

# Enumerations are int32 here: the same bytes. The members of a oneof are fields of their own: likewise.
SESSIONS = """
SessionRequest: SessionConfig config=1; SessionAudio audio=2; EndOfSegment end_of_segment=3; Interrupt interrupt=4; \
SwitchAvatar switch_avatar=5
SessionConfig: string model_id=1; int32 start_frame_idx=2; int32 sample_rate=3; int32 audio_encoding=4; int32 jpeg_quality=5; \
int32 quality_preset=6; int32 output_format=7; int32 pacing=8; int32 idle=9; int32 look_ahead_frames=11; \
SessionResume resume=12; int32 cushion_ms=13
SessionResume: int64 next_number=1; int32 segment=2; int64 audio_start_frame=3; int64 first_frame=4
SessionAudio: bytes data=1
EndOfSegment:
Interrupt:
SwitchAvatar: string model_id=1; int32 start_frame_idx=2
SessionEvent: SessionStarted started=1; SessionFrames frames=2; SegmentEnded segment_ended=3; Interrupted interrupted=4; \
AvatarSwitched avatar_switched=5; SessionStatus status=6; GoingAway going_away=7; SwitchFailed switch_failed=8
SessionStarted: string session_id=1; string server_version=2; float fps=3; int32 width=4; int32 height=5; int32 look_ahead_ms=6; \
int32 max_buffered_ms=7; int32 idle_timeout_ms=8; int32 max_session_ms=9; int32 output_format=10
SessionFrames: repeated SessionFrame frames=1
SessionFrame: bytes picture=1; int64 number=2; int64 pts_us=3; int32 position=4; int32 frame_index=5; bool speech=6; \
int32 segment=7; int64 audio_us=8; int32 next_position=9
SegmentEnded: int32 segment=1; int64 frames=2; int64 audio_us=3
Interrupted: int32 segment=1; int64 next_number=2; int64 audio_us=3
AvatarSwitched: string model_id=1; int64 number=2; int32 width=3; int32 height=4
SwitchFailed: string model_id=1; int32 code=2; string message=3
SessionStatus: bool meets_realtime=1; int32 buffered_ms=2; int64 late_frames=3; int64 stalls=4; int64 clock_resets=5; \
float queue_ms=6; float audio_ms=7; float inference_ms=8; float composite_ms=9
GoingAway: int32 reason=1; int32 ends_in_ms=2
"""

CONTRACTS = {
    "inference": INFERENCE,
    "compositing": COMPOSITING,
    "monolithic": MONOLITHIC,
    "optimized_lipsyncsrv": OPTIMIZED,
}

# Of each service: its RPCs, with request and reply.
SERVICES = {
    "inference.InferenceService": {
        "InferBatch": ("InferBatchRequest", "InferBatchResponse"),
        **{name: (f"{name}Request", f"{name}Response") for name in UNARY_METHODS},
    },
    "compositing.CompositingService": {
        "InferBatchComposite": ("CompositeBatchRequest", "CompositeBatchResponse"),
        **{name: (f"{name}Request", f"{name}Response") for name in UNARY_METHODS},
    },
    "monolithic.MonolithicService": {
        "InferBatchComposite": ("CompositeBatchRequest", "CompositeBatchResponse"),
        **{name: (f"{name}Request", f"{name}Response") for name in UNARY_METHODS},
    },
    "optimized_lipsyncsrv.OptimizedLipSyncService": {
        "GenerateInference": ("OptimizedInferenceRequest", "OptimizedInferenceResponse"),
        "GenerateBatchInference": ("BatchInferenceRequest", "BatchInferenceResponse"),
        "GenerateBatchWithAudio": ("BatchInferenceWithAudioRequest", "BatchInferenceResponse"),
        "StreamInference": ("OptimizedInferenceRequest", "OptimizedInferenceResponse"),
        "GetStats": ("StatsRequest", "StatsResponse"),
        "HealthCheck": ("HealthRequest", "HealthResponse"),
        **{
            name: (f"{name}Request", f"{name}Response")
            for name in ("LoadPackage", "ListModels", "GetVideoFrame", "GetModelMetadata")
        },
    },
}

# Requests and replies are streams.
STREAMS_BOTH_WAYS = {("optimized_lipsyncsrv.OptimizedLipSyncService", "StreamInference")}

_FIELD = re.compile(r"(repeated |optional )?(\w+) (\w+)=(\d+)")
_Field = descriptor_pb2.FieldDescriptorProto


def file_of(package: str, text: str = "") -> descriptor_pb2.FileDescriptorProto:
    """The messages of one package, those of the earlier servers unless `text` has others."""
    file = descriptor_pb2.FileDescriptorProto(name=f"contract/{package}.proto", package=package, syntax="proto3")
    for line in (text or CONTRACTS[package]).strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for each in filter(None, fields.split(";")):
            match = _FIELD.fullmatch(each.strip())
            assert match, each
            label, kind, field, number = match.groups()
            message.field.append(_field(package, kind, field, int(number), repeated=label == "repeated "))
    return file


def pool_of(package: str, text: str = "") -> descriptor_pool.DescriptorPool:
    """A pool of its own with the messages of one package."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file_of(package, text))
    return pool


def _field(package: str, kind: str, name: str, number: int, *, repeated: bool) -> descriptor_pb2.FieldDescriptorProto:
    field = _Field(name=name, number=number, label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL)
    if kind[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    return field
