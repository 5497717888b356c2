"""Keeps the frames of one avatar that are in memory. The caller holds `FrameCache`'s lock."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from avatar_kit.border import BorderPixels
from avatar_kit.geometry import Picture
from compositing_service.outputs import Output
from compositing_service.picture.jpeg.splicing import SpliceableJpeg
from compositing_service.picture.patch import Patch

# Python objects, array headers and allocator padding around a frame's bytes.
_FRAME_OVERHEAD_BYTES = 1200
# The latest frames are kept for callers who follow closely on each other: 2.5 s, or of few frames a part.
_LATEST_FRAMES, _LATEST_PART = 64, 8
# A clip that bounces shows each of its frames within this many times its length.
_STALE_CLIPS = 2
# The same around a mouth of silence.
_MOUTH_OVERHEAD_BYTES = 150


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """The data for compositing a frame at one quality."""

    patch: Patch
    jpeg: SpliceableJpeg


@dataclass(eq=False, slots=True)
class AvatarFrames:
    """The frames by index: encoded at each requested quality, and as whole pictures for raw output; and mouths of silence."""

    max_frames: int
    encoded: dict[int, dict[int, EncodedFrame]] = field(default_factory=dict)
    """By index and quality, the longest unused frame first. The qualities of a frame share one patch."""
    pictures: dict[int, Picture] = field(default_factory=dict)
    resting: dict[Output, dict[int, bytes]] = field(default_factory=dict)
    """The mouths of silence by output and index: the part of the finished picture that differs from the stored one."""
    encoded_bytes: int = 0
    resting_bytes: int = 0
    picture_bytes: int = 0
    pins: int = 0
    """Number of current holders of the avatar."""
    uses: int = 0
    last_use: int = 0
    closed: bool = False
    _added: int = 0
    """Since the start: frames added."""
    _added_at_use: dict[int, int] = field(default_factory=dict)
    """`_added` at the last use of each encoded frame."""
    _clip_frames: int = 0
    """The length of the clip, as far as it has been seen."""

    @property
    def nbytes(self) -> int:
        """Counts the bytes held."""
        return self.lasting_bytes + self.picture_bytes

    @property
    def lasting_bytes(self) -> int:
        """Counts the bytes held for encoded frames and mouths of silence, which last longer than whole pictures."""
        return self.encoded_bytes + self.resting_bytes

    @property
    def resting_count(self) -> int:
        """Counts the mouths of silence held."""
        return sum(map(len, self.resting.values()))

    def find(self, index: int, quality: int) -> EncodedFrame | None:
        """Returns the frame at that quality."""
        return self.encoded.get(index, {}).get(quality)

    def patch(self, index: int) -> Patch | None:
        """Returns the patch that all qualities of the frame share."""
        return next((frame.patch for frame in self.encoded.get(index, {}).values()), None)

    def frame_bytes(self, index: int) -> int:
        """Counts the bytes held for the frame at all its qualities."""
        frames = self.encoded.get(index, {}).values()
        shared = next((_FRAME_OVERHEAD_BYTES + frame.patch.nbytes for frame in frames), 0)
        return shared + sum(frame.jpeg.nbytes for frame in frames)

    def added_bytes(self, index: int, frame: EncodedFrame) -> int:
        """Counts the bytes that `add` would add."""
        return frame.jpeg.nbytes + (0 if index in self.encoded else _FRAME_OVERHEAD_BYTES + frame.patch.nbytes)

    def add(self, index: int, quality: int, frame: EncodedFrame) -> int:
        """Keeps the frame at a quality that it does not have yet. Returns the bytes added."""
        added = self.added_bytes(index, frame)
        self._added += index not in self.encoded
        self._clip_frames = max(self._clip_frames, index + 1)
        self.encoded.setdefault(index, {})[quality] = EncodedFrame(self.patch(index) or frame.patch, frame.jpeg)
        self.note_use(index)
        self.encoded_bytes += added
        return added

    def note_use(self, index: int) -> None:
        """Marks an encoded frame as the latest used."""
        self.encoded[index] = self.encoded.pop(index)
        self._added_at_use[index] = self._added

    def most_dispensable(self, *, keep: int | None) -> int | None:
        """Returns the index of the encoded frame to drop for another, never `keep`; None when there is no other.

        Clips play from end to end again and again, so the frames used latest are needed last, and dropping those keeps the rest
        of the clip in memory. A frame that was not needed for long goes before: callers are elsewhere in the clip by now.
        """
        oldest = next(iter(self.encoded), None)
        if oldest not in {None, keep} and self._added - self._added_at_use[oldest] > _STALE_CLIPS * self._clip_frames:
            return oldest
        latest = (index for index in reversed(self.encoded) if index != keep)
        place = min(_LATEST_FRAMES, len(self.encoded) // _LATEST_PART)
        considered = [*itertools.islice(latest, place + 1)]
        return considered[-1] if considered else None

    def drop(self, index: int) -> int:
        """Drops a frame at all its qualities. Returns the bytes freed."""
        freed = self.frame_bytes(index)
        del self.encoded[index], self._added_at_use[index]
        self.encoded_bytes -= freed
        return freed

    def add_ring(self, index: int, ring: BorderPixels) -> None:
        """Keeps the crop's border with the patch of an encoded frame that has none yet."""
        frames = self.encoded[index]
        patch = replace(next(iter(frames.values())).patch, ring=ring)
        self.encoded[index] = {quality: EncodedFrame(patch, frame.jpeg) for quality, frame in frames.items()}
        self.encoded_bytes += ring.nbytes

    def add_picture(self, index: int, picture: Picture) -> int:
        """Keeps a whole picture. Returns the bytes added."""
        self.pictures[index] = picture
        self.picture_bytes += picture.nbytes
        return picture.nbytes

    def drop_picture(self) -> int:
        """Drops the oldest whole picture. Returns the bytes freed."""
        freed = self.pictures.pop(next(iter(self.pictures))).nbytes
        self.picture_bytes -= freed
        return freed

    def find_resting(self, index: int, output: Output) -> bytes | None:
        """Returns the frame's mouth of silence for that output."""
        return self.resting.get(output, {}).get(index)

    def unrested(self, indices: Iterable[int], output: Output) -> list[int]:
        """Returns the frames without a mouth of silence for that output."""
        held = self.resting.get(output, {})
        return [index for index in indices if index not in held]

    def add_resting(self, index: int, output: Output, mouth: bytes) -> int:
        """Keeps a mouth of silence that is not held yet. Returns the bytes added."""
        added = resting_bytes(mouth)
        self.resting.setdefault(output, {})[index] = mouth
        self.resting_bytes += added
        return added

    def drop_resting(self) -> int:
        """Drops the mouth of silence kept last of the output that came last. Returns the bytes freed."""
        output = next(reversed(self.resting))
        _, mouth = self.resting[output].popitem()
        if not self.resting[output]:
            del self.resting[output]
        freed = resting_bytes(mouth)
        self.resting_bytes -= freed
        return freed


def resting_bytes(mouth: bytes) -> int:
    """Counts the bytes that a mouth of silence takes."""
    return _MOUTH_OVERHEAD_BYTES + len(mouth)
