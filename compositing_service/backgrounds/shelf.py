"""What is in memory of one avatar, and which of it to drop first.

Plain bookkeeping: whoever calls holds `FrameCache`'s lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from avatar_kit.geometry import Picture
from compositing_service.picture.jpeg.splicing import SpliceableJpeg
from compositing_service.picture.paste import Place
from compositing_service.picture.surroundings import Surroundings

EvictionPolicy = Literal["lfu", "lru"]

# Python objects, array headers and allocator padding around a frame's bytes.
_FRAME_OVERHEAD_BYTES = 1700


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """All that compositing a frame at one quality needs."""

    surroundings: Surroundings
    jpeg: SpliceableJpeg


@dataclass(frozen=True, slots=True)
class WholeFrame:
    """A decoded picture and the mouth's place in it."""

    picture: Picture
    place: Place

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.picture.nbytes + self.place.nbytes


@dataclass(slots=True)
class Frame:
    """One frame at the qualities that were asked for, with one copy of its surroundings."""

    surroundings: Surroundings
    last_use: int
    uses: int = 1
    by_quality: dict[int, EncodedFrame] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return _FRAME_OVERHEAD_BYTES + self.surroundings.nbytes + sum(one.jpeg.nbytes for one in self.by_quality.values())


@dataclass(eq=False, slots=True)
class Shelf:
    """One avatar's share of the cache."""

    max_frames: int
    frames: dict[int, Frame] = field(default_factory=dict)
    pictures: dict[int, WholeFrame] = field(default_factory=dict)
    frame_bytes: int = 0
    picture_bytes: int = 0
    pins: int = 0
    """How many hold it now."""
    uses: int = 0
    last_use: int = 0
    closed: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.frame_bytes + self.picture_bytes

    def find(self, index: int, quality: int) -> EncodedFrame | None:
        """The frame at that quality."""
        frame = self.frames.get(index)
        return None if frame is None else frame.by_quality.get(quality)

    def note_use(self, index: int, now: int) -> None:
        """`now` orders the uses of all shelves."""
        self.uses += 1
        self.last_use = now
        if (frame := self.frames.get(index)) is not None:
            frame.uses += 1
            frame.last_use = now

    def added_bytes(self, index: int, encoded: EncodedFrame) -> int:
        """What `add` would add."""
        shared = 0 if index in self.frames else _FRAME_OVERHEAD_BYTES + encoded.surroundings.nbytes
        return shared + encoded.jpeg.nbytes

    def add(self, index: int, quality: int, encoded: EncodedFrame) -> None:
        """Keeps the frame at one more quality, which it must not have yet."""
        self.frame_bytes += self.added_bytes(index, encoded)
        frame = self.frames.setdefault(index, Frame(encoded.surroundings, self.last_use))
        frame.by_quality[quality] = EncodedFrame(frame.surroundings, encoded.jpeg)

    def drop(self, index: int) -> None:
        """Drops a frame at all its qualities."""
        self.frame_bytes -= self.frames.pop(index).nbytes

    def add_picture(self, index: int, whole: WholeFrame) -> None:
        """Keeps a whole picture."""
        self.pictures[index] = whole
        self.picture_bytes += whole.nbytes

    def drop_picture(self) -> None:
        """Drops the whole picture that has been here longest."""
        self.picture_bytes -= self.pictures.pop(next(iter(self.pictures))).nbytes

    def clear(self) -> None:
        """Drops everything."""
        self.frames.clear()
        self.pictures.clear()
        self.frame_bytes = self.picture_bytes = 0

    def rank(self, policy: EvictionPolicy) -> int:
        """The shelf of the lowest rank goes first."""
        return self.last_use if policy == "lru" else self.uses

    def victim(self, policy: EvictionPolicy, *, keep: int | None) -> int | None:
        """The frame to drop next, never `keep`; None when there is no other.

        LFU drops the latest of those used equally often: clips play from end to end, where dropping the oldest would drop each
        frame just before its turn.
        """
        frames = [(frame.uses, frame.last_use, index) for index, frame in self.frames.items() if index != keep]
        if not frames:
            return None
        if policy == "lru":
            return min(frames, key=lambda frame: frame[1])[2]
        return min(frames, key=lambda frame: (frame[0], -frame[1]))[2]
