"""Reads JSON requests, and writes JSON answers."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway_service.earlier.errors import BadMessage
from lipsync_client.earlier import ClipFrame, ClipMetadata

FRAME = "inference"
MODELS = "list_models"
METADATA = "get_metadata"
PICTURE = "get_video_frame"
BINARY_TESTS = ("switch_to_binary", "test_binary")
TYPES = (FRAME, MODELS, METADATA, PICTURE, *BINARY_TESTS)
# Of the answers, which the earlier pages look for.
ANSWERS = {MODELS: "model_list", METADATA: "metadata", PICTURE: "video_frame"}

# Sound of 50 pieces in base64, and all else.
LONGEST_TEXT = 256 << 10

Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
# A name of this length is refused as an avatar's id; it is here to keep answers short.
Name = Annotated[str, Field(max_length=100)]

Answer = dict[str, Any]


class TextRequest(BaseModel):
    """A JSON request. Further keys are ignored, as the earlier servers did."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    type: Name = FRAME
    """The pages leave it out when they ask for a frame."""
    model_name: Name = ""
    frame_id: Int32 = 0
    video_type: Name = ""
    audio_override: str = ""
    """The sound of a frame, base64."""

    @property
    def sound(self) -> bytes:
        """The sound. Raises BadMessage."""
        try:
            return base64.b64decode(self.audio_override, validate=True)
        except (binascii.Error, ValueError):
            raise BadMessage("audio_override is not base64") from None


class _Kind(BaseModel):
    """The keys that tell a request from a message of sessions."""

    type: Any = None
    model_name: Any = None


def is_request(text: str) -> bool:
    """Tells if a text may be a request, right or wrong."""
    if len(text) > LONGEST_TEXT:
        return False
    try:
        return bool(_Kind.model_validate_json(text).model_fields_set)
    except ValidationError:
        return False


def read_request(text: str) -> TextRequest:
    """Reads a request. Raises BadMessage with all problems."""
    if len(text) > LONGEST_TEXT:
        raise BadMessage(f"the message has {len(text)} characters; send at most {LONGEST_TEXT}")
    try:
        request = TextRequest.model_validate_json(text)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise BadMessage(
            "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}".lstrip(": ") for each in problems)
        ) from None
    if request.type not in TYPES:
        raise BadMessage(f"Unknown message type: {request.type}. Known are {', '.join(TYPES)}")
    if request.type == FRAME and not request.model_name:
        raise BadMessage(f"send type, one of {', '.join(TYPES)}, or model_name")
    return request


def frame_answer(request: TextRequest, frame: ClipFrame) -> Answer:
    """Tells of a frame; the picture is base64."""
    return {
        "type": FRAME,
        "success": True,
        "model_name": request.model_name,
        "frame_id": frame.frame_id,
        "prediction_data": base64.b64encode(frame.jpeg).decode(),
        "prediction_shape": frame.shape,
        "bounds": frame.bounds,
        "processing_time_ms": frame.processing_ms,
        "prepare_time_ms": frame.prepare_ms,
        "inference_time_ms": frame.inference_ms,
        "composite_time_ms": frame.composite_ms,
    }


def models_answer(names: list[str]) -> Answer:
    """Lists avatars."""
    return {"type": ANSWERS[MODELS], "success": True, "models": names, "count": len(names)}


def metadata_answer(metadata: ClipMetadata) -> Answer:
    """Describes an avatar."""
    return {
        "type": ANSWERS[METADATA],
        "success": True,
        "model_name": metadata.avatar,
        "frame_count": metadata.frame_count,
        "available_videos": metadata.video_types,
        "audio_path": metadata.audio_path,
        "bounds": metadata.bounds,
    }


def binary_answer() -> Answer:
    """Tells that binary requests are understood; they always are."""
    return {"type": "protocol_ack", "success": True, "protocol": "binary", "binary_supported": True}


def failed_answer(request: TextRequest, error: str) -> Answer:
    """Tells what went wrong with a request, in the form of its answer."""
    names: Answer = {"model_name": request.model_name} if request.type != MODELS else {"models": [], "count": 0}
    if request.type in {FRAME, PICTURE}:
        names["frame_id"] = request.frame_id
    if request.type == PICTURE:
        names["video_type"] = request.video_type
    return {"type": ANSWERS.get(request.type, request.type), "success": False, **names, "error": error}


def error_answer(error: str) -> Answer:
    """Tells what is wrong with a message that is no request."""
    return {"type": "error", "success": False, "error": error}
