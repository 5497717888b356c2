"""Reads single frames of a video: a decoder continues from its place, or a new one starts at the keyframe before."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import av

from avatar_kit.pictures import MAX_PIXELS
from avatar_kit.safe_files import FileProblem
from avatar_kit.video.files import opened_video
from avatar_kit.video.index import BEGINNING, Start, VideoIndex


class NoStart(FileProblem):
    """Decoding cannot begin at a frame marked as a keyframe, or cannot seek to it."""


def frames_from(path: Path, index: VideoIndex, start: Start) -> Generator[av.VideoFrame]:
    """Decodes a video from `start` on, without a gap. Never yields a frame predicted from frames that were not decoded.

    Frames are identified by time stamp. Raises NoStart instead of the first one, FileProblem at damage that the decoder notices.
    """
    number, entered = start.frame, start == BEGINNING
    with opened_video(path) as (container, stream):
        # On one thread an error is certainly of the packet given last.
        stream.codec_context.thread_count = 1
        # A size that changes midway must not take unlimited memory.
        stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        try:
            if start.pts is not None:
                container.seek(start.pts if start.dts is None else min(start.pts, start.dts), stream=stream)
            for packet in container.demux(stream):
                try:
                    decoded = packet.decode()
                except av.error.FFmpegError:
                    if entered:
                        raise
                    continue  # shown before the start, and lacks the frames it was predicted from
                for frame in decoded:
                    shown = number if index.stamps is None else index.number(frame.pts)
                    if not entered and (shown is None or shown < number):
                        continue
                    if shown != number or frame.is_corrupt or not (entered or frame.key_frame):
                        raise _failure(number, entered)
                    entered = True
                    yield frame
                    number += 1
        except av.error.FFmpegError:
            raise _failure(number, entered) from None
    if number < index.count:
        raise _failure(number, entered)


def _failure(number: int, entered: bool) -> FileProblem:
    if entered:
        return FileProblem(f"is damaged or truncated: frame {number} cannot be decoded")
    return NoStart(f"cannot be entered at frame {number}")


@dataclass(eq=False, slots=True)
class _Decoder:
    frames: Generator[av.VideoFrame]
    next: int
    """Number of the frame that it gives next."""


class VideoReader:
    """For one thread at a time. In order, each frame costs one decoding."""

    def __init__(self, path: Path, index: VideoIndex, *, decoders: int = 1, recent_bytes: int = 0) -> None:
        """Opens nothing yet. `decoders`: one for each place being read at a time; each takes about ten pictures' memory.
        `recent_bytes`: for frames decoded last, so that going back a little costs nothing.
        """
        self._path, self._index, self._most, self._recent_bytes = path, index, decoders, recent_bytes
        self._starts = list(index.starts)
        self._damages: dict[range, str] = {}
        self._decoders: list[_Decoder] = []  # the last used one at the end
        self._recent: OrderedDict[int, av.VideoFrame] = OrderedDict()

    def close(self) -> None:
        """Closes the file and drops decoded frames; reading opens it again."""
        self._recent.clear()
        while self._decoders:
            self._decoders.pop().frames.close()

    def frame(self, number: int) -> av.VideoFrame:
        """Decodes frame `number`. Raises FileProblem, never another frame."""
        for frames, damage in self._damages.items():
            if number in frames:
                raise FileProblem(damage)
        while number not in self._recent:
            own = bisect.bisect_right(self._starts, number, key=lambda start: start.frame) - 1
            decoder = self._decoder(self._starts[own], number)
            try:
                while decoder.next <= number:
                    self._remember(decoder.next, next(decoder.frames))
                    decoder.next += 1
            except NoStart:
                self._decoders.remove(decoder)
                del self._starts[own]  # and start farther back
            except FileProblem:
                self._decoders.remove(decoder)
                raise self._damaged(decoder.next, own) from None
            if decoder.next == self._index.count:
                self._decoders.remove(decoder)  # no longer needed
                decoder.frames.close()
        return self._recent[number]

    def _decoder(self, start: Start, number: int) -> _Decoder:
        """Returns the nearest decoder before that frame, else a new one at `start`, which replaces the least recently used."""
        found = max(
            (each for each in self._decoders if start.frame <= each.next <= number), key=lambda each: each.next, default=None
        )
        if found:
            self._decoders.remove(found)
        elif len(self._decoders) == self._most:
            self._decoders.pop(0).frames.close()
        decoder = found or _Decoder(frames_from(self._path, self._index, start), start.frame)
        self._decoders.append(decoder)
        return decoder

    def _remember(self, number: int, frame: av.VideoFrame) -> None:
        self._recent[number] = frame
        most = self._recent_bytes // sum(plane.buffer_size for plane in frame.planes)
        while len(self._recent) > max(1, most):
            self._recent.popitem(last=False)

    def _damaged(self, first: int, own: int) -> FileProblem:
        """Notes the frames from the failed one to the next start as damaged, so that they are not tried again."""
        stop = self._starts[own + 1].frame if own + 1 < len(self._starts) else self._index.count
        which = f"frame {first}" if stop - first == 1 else f"frames {first} to {stop - 1}"
        problem = self._damages[range(first, stop)] = f"is damaged or truncated: {which} cannot be decoded"
        return FileProblem(problem)
