"""Keeps the frames of one avatar that are in memory. The caller holds `FrameCache`'s lock."""

from __future__ import annotations

from dataclasses import dataclass, field

from avatar_kit.geometry import Picture
from compositing_service.picture.jpeg.splicing import SpliceableJpeg
from compositing_service.picture.patch import Patch, Place

# Python objects, array headers and allocator padding around a frame's bytes.
_FRAME_OVERHEAD_BYTES = 1700


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """The data for compositing a frame at one quality."""

    patch: Patch
    jpeg: SpliceableJpeg


@dataclass(frozen=True, slots=True)
class WholeFrame:
    """A decoded picture and the mouth's place in it."""

    picture: Picture
    place: Place

    @property
    def nbytes(self) -> int:
        """Counts the bytes held."""
        return self.picture.nbytes + self.place.nbytes


@dataclass(eq=False, slots=True)
class AvatarFrames:
    """The frames by index: encoded at each requested quality, and as whole pictures for raw output."""

    max_frames: int
    encoded: dict[int, dict[int, EncodedFrame]] = field(default_factory=dict)
    """By index and quality. The qualities of a frame share one patch."""
    pictures: dict[int, WholeFrame] = field(default_factory=dict)
    encoded_bytes: int = 0
    picture_bytes: int = 0
    pins: int = 0
    """Number of current holders of the avatar."""
    uses: int = 0
    last_use: int = 0
    closed: bool = False

    @property
    def nbytes(self) -> int:
        """Counts the bytes held."""
        return self.encoded_bytes + self.picture_bytes

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
        self.encoded.setdefault(index, {})[quality] = EncodedFrame(self.patch(index) or frame.patch, frame.jpeg)
        self.encoded_bytes += added
        return added

    def drop(self, index: int) -> int:
        """Drops a frame at all its qualities. Returns the bytes freed."""
        freed = self.frame_bytes(index)
        del self.encoded[index]
        self.encoded_bytes -= freed
        return freed

    def add_picture(self, index: int, whole: WholeFrame) -> int:
        """Keeps a whole picture. Returns the bytes added."""
        self.pictures[index] = whole
        self.picture_bytes += whole.nbytes
        return whole.nbytes

    def drop_picture(self) -> int:
        """Drops the oldest whole picture. Returns the bytes freed."""
        freed = self.pictures.pop(next(iter(self.pictures))).nbytes
        self.picture_bytes -= freed
        return freed
