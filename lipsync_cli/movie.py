"""Writes an MP4 with the pictures as H.264 and the sound as AAC, both starting at zero and of the same length.

The file appears under its own name only when it is whole.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from lipsync_cli.failures import CliError
from lipsync_cli.recording import Recording

FRAME_RATE = 25

# H.264 plays everywhere; MPEG-4 part 2 is the last resort, for players but not for browsers.
ENCODERS = ("libx264", "libopenh264", "mpeg4")
OPTIONS = {
    # No B-frames: pictures are stored in the order they are shown, and no player has to honour an edit list to be in step.
    "libx264": {"preset": "veryfast", "crf": "18", "bf": "0"},
    "libopenh264": {"b": "6M", "profile": "high"},
    "mpeg4": {"q": "3"},
}
SECONDS_BETWEEN_KEY_FRAMES = 2
# Rates that AAC has and that players take.
AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
AAC_BITS_PER_CHANNEL = 96_000
BT709 = 1
LIMITED_RANGE = 1


def video_encoder() -> str | None:
    """The best encoder that this PyAV has, None when it has none."""
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        return name
    return None


class MovieWriter:
    """Writes `path`; use it as a context manager and call `finish` after the last picture. Leaving without it leaves nothing."""

    def __init__(self, path: Path, sound: Recording) -> None:
        encoder = video_encoder()
        if encoder is None:
            raise CliError("this PyAV has no video encoder; install its wheel from the package index")
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._sound = sound if sound.rate_hz in AAC_RATES_HZ else sound.resampled(AAC_RATES_HZ[-1])
        self._encoder = encoder
        self._frame_count = 0
        self._size = (0, 0)
        self._container = av.open(str(self._partial), "w", format="mp4", options={"movflags": "+faststart"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()
        self._partial.unlink(missing_ok=True)

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Appends a picture, uint8 [height, width, 3] BGR, and its 40 ms of sound. All pictures have one size.

        A last odd row or column is left out: H.264 halves the colour both ways.
        """
        height, width = (side - side % 2 for side in picture.shape[:2])
        if self._frame_count == 0:
            self._open_streams(width, height)
        elif (width, height) != self._size:
            raise CliError(f"picture {self._frame_count} is {width}x{height}, the first was {self._size[0]}x{self._size[1]}")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="bgr24")
        converted = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        converted.pts = self._frame_count
        self._container.mux(self._video.encode(converted))
        self._add_sound()
        self._frame_count += 1

    def finish(self) -> None:
        """Completes the file and gives it its name."""
        if self._frame_count == 0:
            raise CliError("there are no pictures to write")
        self._container.mux(self._video.encode(None))
        self._container.mux(self._audio.encode(None))
        self._container.close()
        os.replace(self._partial, self._path)

    def _open_streams(self, width: int, height: int) -> None:
        self._size = (width, height)
        video = self._container.add_stream(self._encoder, rate=FRAME_RATE, options=OPTIONS[self._encoder])
        self._video = cast("VideoStream", video)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        codec = self._video.codec_context
        codec.gop_size = SECONDS_BETWEEN_KEY_FRAMES * FRAME_RATE
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE
        channels = self._sound.samples.shape[0]
        self._layout = "mono" if channels == 1 else "stereo"
        self._audio = self._container.add_stream("aac", rate=self._sound.rate_hz, layout=self._layout)
        self._audio.bit_rate = AAC_BITS_PER_CHANNEL * channels

    def _add_sound(self) -> None:
        """The sound under the picture that was just added; silence where the recording has ended."""
        first, end = (k * self._sound.rate_hz // FRAME_RATE for k in (self._frame_count, self._frame_count + 1))
        piece = self._sound.samples[:, first:end]
        missing = end - first - piece.shape[1]
        frame = av.AudioFrame.from_ndarray(np.pad(piece, ((0, 0), (0, missing))), format="fltp", layout=self._layout)
        frame.sample_rate = self._sound.rate_hz
        frame.pts = first
        self._container.mux(self._audio.encode(frame))


def decode_jpeg(jpeg: bytes) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] BGR. Raises CliError when it is not a picture."""
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise CliError("the server sent a frame that is not a JPEG picture")
    return picture.astype(np.uint8, copy=False)
