"""Writes an MP4 file: pictures as H.264, sound as AAC, both from time zero and of the same length."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from lipsync_cli.failures import CliError
from lipsync_cli.files import ffmpeg_name
from lipsync_cli.mixing import Samples
from lipsync_cli.recording import Track, resampled
from shared_proto.timing import FRAME_RATE

Picture = NDArray[np.uint8]  # [height, width, 3] BGR


# H.264 plays everywhere. MPEG-4 part 2, the last choice, plays in players but not in browsers.
ENCODERS = ("libx264", "libopenh264", "mpeg4")
OPTIONS = {
    # No B-frames: pictures are stored in the order of display, so sound and picture match even if a player ignores edit lists.
    "libx264": {"preset": "veryfast", "crf": "18", "bf": "0"},
    "libopenh264": {"b": "6M", "profile": "high"},
    "mpeg4": {"q": "3"},
}
SECONDS_BETWEEN_KEY_FRAMES = 2
# Rates of AAC that players support.
AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
AAC_BITS_PER_CHANNEL = 96_000
# The default search for the best quantisation clicks at the start of a sound that begins abruptly.
AAC_OPTIONS = {"aac_coder": "fast"}
BT709 = 1
LIMITED_RANGE = 1


def video_encoder() -> str | None:
    """Names the best video encoder of this PyAV. Returns None when it has none."""
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        return name
    return None


def write_movie(path: Path, pictures: Iterable[Picture], sound: Track | None) -> None:
    """Writes every picture with its 40 ms of sound, or silence after the sound's end. Without `sound` there is no sound track.

    All pictures have the size of the first. A last odd row or column is left out, because H.264 stores colour at half the size.
    Raises CliError when there are no pictures, or when their size changes.
    """
    waiting = iter(pictures)
    first = next(waiting, None)
    if first is None:
        raise CliError("there are no pictures to write")
    height, width = (side - side % 2 for side in first.shape[:2])
    with av.open(ffmpeg_name(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = _video_stream(container, width, height)
        track = SoundTrack(container, sound) if sound else None
        for index, picture in enumerate(chain([first], waiting)):
            if picture.shape != first.shape:
                raise CliError(f"frame {index} is {_size(picture)}, frame 0 was {_size(first)}")
            container.mux(video.encode(_video_frame(index, picture[:height, :width])))
            if track:
                track.write(index)
        container.mux(video.encode(None))
        if track:
            track.end()


class SoundTrack:
    """The sound track of a film that is being written, picture by picture."""

    def __init__(self, container: OutputContainer, sound: Track) -> None:
        self._container = container
        self._rate_hz = sound.rate_hz if sound.rate_hz in AAC_RATES_HZ else AAC_RATES_HZ[-1]
        self._layout = "mono" if sound.channels == 1 else "stereo"
        self._pieces = resampled(sound.pieces, sound.rate_hz, self._rate_hz)
        self._waiting = np.zeros((0, sound.channels), np.float32)
        self._stream = container.add_stream("aac", rate=self._rate_hz, layout=self._layout, options=AAC_OPTIONS)
        self._stream.bit_rate = AAC_BITS_PER_CHANNEL * sound.channels

    def write(self, index: int) -> None:
        """Writes the 40 ms of the next picture."""
        first, end = (k * self._rate_hz // FRAME_RATE for k in (index, index + 1))
        samples = np.ascontiguousarray(self._take(end - first).T)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._layout)
        frame.sample_rate = self._rate_hz
        frame.pts = first
        self._container.mux(self._stream.encode(frame))

    def end(self) -> None:
        """Writes the rest of the sound out of the encoder."""
        self._container.mux(self._stream.encode(None))

    def _take(self, count: int) -> Samples:
        """Returns the next `count` samples, or silence after the last."""
        while len(self._waiting) < count:
            more = next(self._pieces, None)
            more = np.zeros((count, self._waiting.shape[1]), np.float32) if more is None else more
            self._waiting = np.concatenate([self._waiting, more])
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken


def decode_jpeg(jpeg: bytes) -> Picture:
    """Decodes a JPEG file. Raises CliError for other data."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise CliError("the server sent a frame that is not a JPEG picture")
    return picture.astype(np.uint8, copy=False)


def _size(picture: Picture) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _video_stream(container: OutputContainer, width: int, height: int) -> VideoStream:
    encoder = video_encoder()
    if encoder is None:
        raise CliError("this PyAV has no video encoder; install its wheel from the package index")
    stream = cast("VideoStream", container.add_stream(encoder, rate=FRAME_RATE, options=OPTIONS[encoder]))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    codec = stream.codec_context
    codec.gop_size = SECONDS_BETWEEN_KEY_FRAMES * FRAME_RATE
    # Written into the file, because players guess differently.
    codec.colorspace = codec.color_primaries = codec.color_trc = BT709
    codec.color_range = LIMITED_RANGE
    return stream


def _video_frame(index: int, picture: Picture) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24")
    converted = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
    converted.pts = index
    return converted
