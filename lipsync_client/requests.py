"""Builds the messages of the compositing API from plain Python values.

What a value means is for the server to judge; only what the wire cannot say at all is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypedDict

from lipsync_client.cutting import check_batch_size, cut, split
from lipsync_client.sound import SERVER_SAMPLE_RATE_HZ, Sound, WireSound, wire_sound
from shared_proto import compositing_pb2 as pb

Quality = int | Literal["low", "medium", "high"]
"""JPEG quality 1-100, or a preset: low is 50, medium 75, high 90."""

Output = Literal["jpeg", "raw"]
"""JPEG files, or uint8 [height, width, 3] BGR bytes."""

PRESETS = {"low": pb.QUALITY_LOW, "medium": pb.QUALITY_MEDIUM, "high": pb.QUALITY_HIGH}
FORMATS = {"jpeg": pb.FORMAT_JPEG, "raw": pb.FORMAT_RAW_BGR}


class IdleOptions(TypedDict, total=False):
    """What may be said of any frames, also of a person who does not speak."""

    start_frame: int
    """Position of the first frame on the avatar's endless timeline; 0 when left out."""
    quality: Quality | None
    """The server's own when left out or None."""
    output: Output
    """JPEG when left out."""


class FrameOptions(IdleOptions, total=False):
    """What may be said of frames with sound."""

    sample_rate: int
    """Hz, 8000 to 192000; 16000 when left out."""


class StoredOptions(IdleOptions, total=False):
    """What may be said of frames from stored features."""

    batch_size: int
    """The most frames in a request; 24 when left out. The first requests have fewer, so that the first frame comes soon."""


class BatchOptions(FrameOptions, total=False):
    """What may be said of one batch."""

    lead_in_frames: int
    """So many 40 ms frames of the sound lie before the first frame; 0 when left out."""
    audio_start_frame: int
    """The 40 ms frame of the whole sound at which the sound sent begins; 0 when left out."""


class ClipOptions(FrameOptions, total=False):
    """What may be said of a whole sound."""

    batch_size: int
    """The most frames in a request; 24 when left out. The first requests have fewer, so that the first frame comes soon."""


def composite_request(
    avatar: str,
    audio: Sound | WireSound,
    *,
    batch_size: int,
    start_frame: int = 0,
    sample_rate: int = SERVER_SAMPLE_RATE_HZ,
    quality: Quality | None = None,
    output: Output = "jpeg",
    lead_in_frames: int = 0,
    audio_start_frame: int = 0,
) -> pb.CompositeBatchRequest:
    """The request of one batch. Raises ValueError for an unknown quality or output, or a number over 32 bits."""
    check_picture(quality, output)
    sound = audio if isinstance(audio, WireSound) else wire_sound(audio)
    return pb.CompositeBatchRequest(
        model_id=avatar,
        raw_audio=sound.data,
        audio_encoding=sound.encoding,
        batch_size=batch_size,
        start_frame_idx=start_frame,
        sample_rate=sample_rate,
        lead_in_frames=lead_in_frames,
        audio_start_frame=audio_start_frame,
        jpeg_quality=quality if isinstance(quality, int) else 0,
        quality_preset=PRESETS[quality] if isinstance(quality, str) else pb.QUALITY_UNSET,
        output_format=FORMATS[output],
    )


def idle_request(
    avatar: str, *, batch_size: int, start_frame: int = 0, quality: Quality | None = None, output: Output = "jpeg"
) -> pb.CompositeBatchRequest:
    """The request of frames without speech. Raises ValueError for an unknown quality or output, or a number over 32 bits."""
    request = composite_request(avatar, b"", batch_size=batch_size, start_frame=start_frame, quality=quality, output=output)
    request.idle = True
    return request


def stored_request(
    avatar: str, *, batch_size: int, start_frame: int = 0, quality: Quality | None = None, output: Output = "jpeg"
) -> pb.CompositeBatchRequest:
    """The request of frames from stored features. Raises ValueError as `idle_request`."""
    request = composite_request(avatar, b"", batch_size=batch_size, start_frame=start_frame, quality=quality, output=output)
    request.stored_features = True
    return request


def stored_requests(
    avatar: str,
    frames: int,
    *,
    start_frame: int = 0,
    quality: Quality | None = None,
    output: Output = "jpeg",
    batch_size: int = 24,
) -> Iterator[pb.CompositeBatchRequest]:
    """The requests that together make so many frames from stored features, in order.

    Raises ValueError for bad arguments at once, not at the first item.
    """
    check_picture(quality, output)
    check_batch_size(batch_size)
    return (
        stored_request(avatar, batch_size=count, start_frame=start_frame + first, quality=quality, output=output)
        for first, count in split(frames, batch_size=batch_size)
    )


def clip_requests(
    avatar: str,
    sound: Sound,
    *,
    start_frame: int = 0,
    sample_rate: int = SERVER_SAMPLE_RATE_HZ,
    quality: Quality | None = None,
    output: Output = "jpeg",
    batch_size: int = 24,
) -> Iterator[pb.CompositeBatchRequest]:
    """The requests that together make every frame of `sound`, in order.

    Raises ValueError or TypeError for bad arguments at once, not at the first item.
    """
    check_picture(quality, output)
    wire = wire_sound(sound)
    return (
        composite_request(
            avatar,
            wire.slice(piece.first_sample, piece.end_sample),
            batch_size=piece.frame_count,
            start_frame=start_frame + piece.first_frame,
            sample_rate=sample_rate,
            quality=quality,
            output=output,
            lead_in_frames=piece.lead_in_frames,
            audio_start_frame=piece.audio_start_frame,
        )
        for piece in cut(wire.sample_count, sample_rate=sample_rate, batch_size=batch_size)
    )


def check_picture(quality: Quality | None, output: Output) -> None:
    """Raises ValueError for a quality or an output that there is not."""
    if output not in FORMATS:
        raise ValueError(f"output is {output!r}; expected jpeg or raw")
    if quality is None or (isinstance(quality, str) and quality in PRESETS) or (isinstance(quality, int) and 1 <= quality <= 100):
        return
    raise ValueError(f"quality is {quality!r}; expected 1 to 100, low, medium or high")
