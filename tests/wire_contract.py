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

CONTRACTS = {"inference": INFERENCE, "compositing": COMPOSITING}

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
}

_FIELD = re.compile(r"(repeated )?(\w+) (\w+)=(\d+)")
_Field = descriptor_pb2.FieldDescriptorProto


def file_of(package: str) -> descriptor_pb2.FileDescriptorProto:
    """The messages of one package."""
    file = descriptor_pb2.FileDescriptorProto(name=f"contract/{package}.proto", package=package, syntax="proto3")
    for line in CONTRACTS[package].strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for text in filter(None, fields.split(";")):
            match = _FIELD.fullmatch(text.strip())
            assert match, text
            repeated, kind, field, number = match.groups()
            message.field.append(_field(package, kind, field, int(number), repeated=bool(repeated)))
    return file


def pool_of(package: str) -> descriptor_pool.DescriptorPool:
    """A pool of its own with the messages of one package."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file_of(package))
    return pool


def _field(package: str, kind: str, name: str, number: int, *, repeated: bool) -> descriptor_pb2.FieldDescriptorProto:
    field = _Field(name=name, number=number, label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL)
    if kind[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    return field
