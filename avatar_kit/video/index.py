"""Indexes a video from its packets: number of pictures, the time of each, and the places where decoding can begin."""

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

# Frames, on average, of one picture of a video: 2 s. A lecture's slides are shown for longer, but no person.
MOST_REPEATS = 50
# With these codecs every packet is a shown picture, so counting them needs no decoding.
_PACKET_IS_PICTURE = frozenset({"h264", "hevc", "mpeg4", "mjpeg", "prores", "ffv1", "rawvideo"})

# Its packets are stamped in decoding order, not in showing order.
_STAMPED_AS_DECODED = "avi"


@dataclass(frozen=True, slots=True)
class Start:
    """A place where decoding can begin."""

    frame: int
    """The first picture that decodes whole, as all after it do."""
    pts: int | None = None
    """Time stamp of its packet; None: the beginning of the file."""
    dts: int | None = None


BEGINNING = Start(0)


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """A video's pictures, numbered in the order shown."""

    count: int
    rate: float
    """Frames a second, from the header."""
    times: NDArray[np.float64] = field(repr=False)
    """Time of each picture, in seconds from the first."""
    stamps: NDArray[np.int64] | None = field(repr=False)
    """The pts of each picture, all different. None: they are not, so pictures must be counted from the first."""
    starts: tuple[Start, ...] = field(repr=False)
    """Sorted; the first is at picture 0."""
    random_access: bool = True
    """True: each packet of its codec is a picture."""

    def number(self, pts: int | None) -> int | None:
        """Returns the number of the picture with that stamp."""
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
    """Reads the whole file, and decodes only what cannot be counted otherwise. Raises FileProblem."""
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
    """Returns for each frame at 25 a second the last picture that has begun, its beginning rounded to the nearest 1/25 s.

    Raises FileProblem for more frames than are allowed, or out of proportion to the pictures: a header may say any rate.
    """
    ticks = np.floor(index.times * FPS + 0.5).astype(np.int64)
    end = int(np.floor((index.times[-1] + 1 / index.rate) * FPS + 0.5))
    count = max(end, int(ticks[-1]) + 1) if end <= MAX_FRAMES else end
    if count > MAX_FRAMES:
        raise FileProblem(f"lasts longer than the {MAX_FRAMES} frames allowed")
    if count > index.count * MOST_REPEATS:
        raise FileProblem(
            f"would give {count} frames, 25 a second, of {index.count} pictures: its rate or its times are wrong; "
            f"make another of it, with a picture every {MOST_REPEATS / FPS:g} s or more often"
        )
    return (np.searchsorted(ticks, np.arange(count), side="right") - 1).astype(np.int32)


def is_at_25(index: VideoIndex) -> bool:
    """Returns True if the video's own frames are exactly those shown at 25 a second, each once."""
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
    """Returns the stamps sorted; None if some are missing, as in old containers."""
    known = [pts for pts in shown if pts is not None]
    return np.sort(np.array(known, np.int64)) if len(known) == len(shown) else None


def _all_different(stamps: list[int | None]) -> bool:
    return None not in stamps and len(set(stamps)) == len(stamps)


def _starts(packets: list[_Packet], stamps: NDArray[np.int64]) -> tuple[Start, ...]:
    """Returns the beginning, and every keyframe from which all pictures decode whole."""
    starts = [BEGINNING]
    for packet in packets:
        if packet.is_key and packet.pts is not None:
            frame = int(np.searchsorted(stamps, packet.pts))
            if starts[-1].frame < frame < len(stamps):
                starts.append(Start(frame, packet.pts, packet.dts))
    return tuple(starts)
