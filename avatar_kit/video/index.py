"""What a video's packets say without being decoded: how many pictures there are, when each is shown, where decoding can begin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avatar_kit.manifest import FPS
from avatar_kit.numbering import MAX_FRAMES
from avatar_kit.safe_files import FileProblem
from avatar_kit.video.files import decoded, opened_video

# Of these every packet is a picture that is shown, so that counting them needs no decoding.
_PACKET_IS_PICTURE = frozenset({"h264", "hevc", "mpeg4", "mjpeg", "prores", "ffv1", "rawvideo"})

# Its packets are stamped in the order of decoding, whatever the order of showing.
_STAMPED_AS_DECODED = "avi"


@dataclass(frozen=True, slots=True)
class Start:
    """A place where decoding can begin."""

    frame: int
    """The first picture that comes out whole, and with it all that follow."""
    pts: int | None = None
    """The stamp of its packet; None: the beginning of the file."""
    dts: int | None = None


BEGINNING = Start(0)


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """The pictures of a video, numbered in the order in which they are shown."""

    count: int
    rate: float
    """As the video says it, in frames a second."""
    times: NDArray[np.float64] = field(repr=False)
    """When each is shown, in seconds from the first."""
    stamps: NDArray[np.int64] | None = field(repr=False)
    """The pts of each, all different; None: they do not tell the pictures apart, which have to be counted from the first."""
    starts: tuple[Start, ...] = field(repr=False)
    """In order, the first one at picture 0."""
    random_access: bool = True
    """Whether its codec is one whose packets are pictures."""

    def number(self, pts: int | None) -> int | None:
        """Which picture has that stamp."""
        if self.stamps is None or pts is None:
            return None
        found = int(np.searchsorted(self.stamps, pts))
        return found if found < self.count and self.stamps[found] == pts else None


@dataclass(frozen=True, slots=True)
class _Packet:
    pts: int | None
    dts: int | None
    is_key: bool
    is_shown: bool


def index_video(path: Path) -> VideoIndex:
    """Reads the whole file, and decodes only what must be decoded to be counted. Raises FileProblem."""
    with opened_video(path) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or FPS)
        time_base = float(stream.time_base or 1)
        by_packet = stream.codec_context.name in _PACKET_IS_PICTURE
        packets: list[_Packet] = []
        for packet in _packets(container, stream) if by_packet else _as_packets(container, stream):
            if len(packets) >= MAX_FRAMES:
                raise FileProblem(f"has more than the {MAX_FRAMES} frames allowed")
            packets.append(packet)
        reordered = container.format.name == _STAMPED_AS_DECODED and not all(packet.is_key for packet in packets)
    shown = [packet.pts for packet in packets if packet.is_shown]
    if not shown:
        raise FileProblem("has no frames in it")
    stamps = _stamps(shown)
    times = np.arange(len(shown)) / rate if stamps is None else (stamps - stamps[0]) * time_base
    if not by_packet or reordered or stamps is None or not _all_different([packet.pts for packet in packets]):
        return VideoIndex(len(shown), rate, times, None, (BEGINNING,), random_access=by_packet)
    return VideoIndex(len(shown), rate, times, stamps, _starts(packets, stamps))


def at_25(index: VideoIndex) -> NDArray[np.int32]:
    """For each frame at 25 a second, the last of the video's that has begun, its beginning rounded to the nearest 1/25 s.

    Raises FileProblem for more frames than are allowed.
    """
    ticks = np.floor(index.times * FPS + 0.5).astype(np.int64)
    end = int(np.floor((index.times[-1] + 1 / index.rate) * FPS + 0.5))
    count = max(end, int(ticks[-1]) + 1) if end <= MAX_FRAMES else end
    if count > MAX_FRAMES:
        raise FileProblem(f"lasts longer than the {MAX_FRAMES} frames allowed")
    return (np.searchsorted(ticks, np.arange(count), side="right") - 1).astype(np.int32)


def is_at_25(index: VideoIndex) -> bool:
    """Whether the video's own frames are those shown 25 times a second, each once."""
    return np.array_equal(at_25(index), np.arange(index.count))


def _packets(container: av.container.InputContainer, stream: VideoStream) -> Iterator[_Packet]:
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield _Packet(packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard)
    except av.error.FFmpegError:
        raise FileProblem("is damaged or truncated: it cannot be read to its end") from None


def _as_packets(container: av.container.InputContainer, stream: VideoStream) -> Iterator[_Packet]:
    stream.thread_type = "AUTO"
    for frame in decoded(container, stream):
        yield _Packet(frame.pts, None, is_key=False, is_shown=True)


def _stamps(shown: list[int | None]) -> NDArray[np.int64] | None:
    """In order; None where some old container does not say."""
    known = [pts for pts in shown if pts is not None]
    return np.sort(np.array(known, np.int64)) if len(known) == len(shown) else None


def _all_different(stamps: list[int | None]) -> bool:
    return None not in stamps and len(set(stamps)) == len(stamps)


def _starts(packets: list[_Packet], stamps: NDArray[np.int64]) -> tuple[Start, ...]:
    """The beginning, and every keyframe after which the pictures from its own on come out whole."""
    starts = [BEGINNING]
    for packet in packets:
        if packet.is_key and packet.pts is not None:
            frame = int(np.searchsorted(stamps, packet.pts))
            if starts[-1].frame < frame < len(stamps):
                starts.append(Start(frame, packet.pts, packet.dts))
    return tuple(starts)
