"""Builds the messages of the compositing API from plain Python values.

The server checks the values; only those that the wire cannot carry are refused here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypedDict

from lipsync_client.cutting import check_sample_rate, cut_of, frame_count
from lipsync_client.sound import Sound, SoundLine, WireSound, pieces_of, wire_sound
from shared_proto import compositing_pb2 as pb
from shared_proto.timing import SAMPLE_RATE_HZ

Quality = int | Literal["low", "medium", "high"]
"""JPEG quality 1-100, or a preset: low is 50, medium 75, high 90."""

Output = Literal["jpeg", "raw"]
"""JPEG files, or uint8 [height, width, 3] BGR bytes."""

SessionOutput = Literal["jpeg", "raw", "h264"]
"""Output, or access units of H.264 in Annex B, each of which needs those before it back to a key frame."""

PRESETS = {"low": pb.QUALITY_LOW, "medium": pb.QUALITY_MEDIUM, "high": pb.QUALITY_HIGH}
FORMATS: dict[Output, pb.OutputFormat.ValueType] = {"jpeg": pb.FORMAT_JPEG, "raw": pb.FORMAT_RAW_BGR}
SESSION_FORMATS: dict[SessionOutput, pb.OutputFormat.ValueType] = {
    "jpeg": pb.FORMAT_JPEG,
    "raw": pb.FORMAT_RAW_BGR,
    "h264": pb.FORMAT_H264,
}


class PictureOptions(TypedDict, total=False):
    """Options of any frames, in any form."""

    start_frame: int
    """Position of the first frame on the avatar's endless timeline; 0 by default."""
    quality: Quality | None
    """The server's own by default or when None."""


class IdleOptions(PictureOptions, total=False):
    """Options of frames that stand alone, with or without speech."""

    output: Output
    """JPEG by default."""


class FrameOptions(IdleOptions, total=False):
    """Options of frames with sound."""

    sample_rate: int
    """Hz, 8000 to 192000; 16000 by default."""


class BatchOptions(FrameOptions, total=False):
    """Options of one batch."""

    lead_in_frames: int
    """40 ms frames of the sound before the first frame; 0 by default."""
    audio_start_frame: int
    """The 40 ms frame of the whole sound at which the sound sent begins; 0 by default."""


def composite_request(
    avatar: str,
    audio: Sound | WireSound,
    *,
    batch_size: int,
    start_frame: int = 0,
    sample_rate: int = SAMPLE_RATE_HZ,
    quality: Quality | None = None,
    output: Output = "jpeg",
    lead_in_frames: int = 0,
    audio_start_frame: int = 0,
) -> pb.CompositeBatchRequest:
    """Builds the request of one batch. Raises ValueError for an unknown quality or output, or a number over 32 bits."""
    check_output(quality, output)
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


def soundless_request(
    avatar: str,
    kind: Literal["idle", "stored_features"],
    *,
    batch_size: int,
    start_frame: int = 0,
    quality: Quality | None = None,
    output: Output = "jpeg",
) -> pb.CompositeBatchRequest:
    """Builds the request of a batch without sound. Raises ValueError as `composite_request` does."""
    request = composite_request(avatar, b"", batch_size=batch_size, start_frame=start_frame, quality=quality, output=output)
    setattr(request, kind, True)
    return request


class StoredFrames:
    """The frames of a clip from stored features."""

    def __init__(self, avatar: str, frames: int, options: IdleOptions) -> None:
        """Raises ValueError or TypeError for options that no request can carry."""
        soundless_request(avatar, "stored_features", batch_size=1, **options)
        self._avatar = avatar
        self._frames = frames
        self._options = options

    def available(self, first: int, wanted: int) -> int:
        """Counts the frames from `first` on, up to `wanted`."""
        return max(0, min(wanted, self._frames - first))

    def request(self, first: int, count: int) -> pb.CompositeBatchRequest:
        """Builds the request of `count` frames from `first` on."""
        options: IdleOptions = {**self._options, "start_frame": self._options.get("start_frame", 0) + first}
        return soundless_request(self._avatar, "stored_features", batch_size=count, **options)

    def forget(self, before: int) -> None:
        """Does nothing: these frames need no sound."""


class SpokenFrames:
    """The frames of a clip that speaks a sound. The sound is read only as far as frames are asked for."""

    def __init__(self, avatar: str, sound: Sound | Iterator[Sound], options: FrameOptions) -> None:
        """Raises ValueError or TypeError for options or a sound that no request can carry."""
        composite_request(avatar, b"", batch_size=1, **options)
        self._avatar = avatar
        self._options = options
        self._sample_rate = options.get("sample_rate", SAMPLE_RATE_HZ)
        check_sample_rate(self._sample_rate)
        self._sound = SoundLine(pieces_of(sound), self._sample_rate)

    def available(self, first: int, wanted: int) -> int:
        """Counts the frames from `first` on, up to `wanted`, and reads the sound that they need."""
        self._sound.read_to(cut_of(first, wanted, sample_rate=self._sample_rate).end_sample)
        if not self._sound.ended:
            return wanted
        return max(0, min(wanted, frame_count(self._sound.sample_count, self._sample_rate) - first))

    def request(self, first: int, count: int) -> pb.CompositeBatchRequest:
        """Builds the request of `count` frames from `first` on."""
        piece = cut_of(first, count, sample_rate=self._sample_rate)
        options: BatchOptions = {
            **self._options,
            "start_frame": self._options.get("start_frame", 0) + first,
            "lead_in_frames": piece.lead_in_frames,
            "audio_start_frame": piece.audio_start_frame,
        }
        sound = self._sound.slice(piece.first_sample, piece.end_sample)
        return composite_request(self._avatar, sound, batch_size=count, **options)

    def forget(self, before: int) -> None:
        """Releases the sound that only earlier frames need."""
        self._sound.forget(cut_of(before, 1, sample_rate=self._sample_rate).first_sample)


def check_output(quality: Quality | None, output: str, known: Iterable[str] = FORMATS) -> None:
    """Raises ValueError for an unknown quality or output."""
    if output not in known:
        raise ValueError(f"output is {output!r}; expected {' or '.join(known)}")
    if quality is None or (isinstance(quality, str) and quality in PRESETS) or (isinstance(quality, int) and 1 <= quality <= 100):
        return
    raise ValueError(f"quality is {quality!r}; expected 1 to 100, low, medium or high")
