"""Keeps frames of all avatars in memory, within one budget of bytes.

When room is short, it drops in this order: whole pictures, which only raw output needs and which take twenty times a frame's
bytes; frames, and then mouths of silence, of unused avatars, of the least used (LFU) or longest unused (LRU) avatar first; mouths
of silence of avatars in use, of the one that holds most, as a picture can be shown without; frames of the avatar that holds most.
A mouth of silence takes room from whole pictures and unused avatars alone. Which one of an avatar's frames, `AvatarFrames` says:
clips play from end to end, where dropping the oldest would drop each frame just before its turn. A frame that does not fit is
used and not kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from avatar_kit.border import BorderPixels
from avatar_kit.geometry import Picture
from compositing_service.backgrounds.avatar_frames import AvatarFrames, EncodedFrame, resting_bytes
from compositing_service.outputs import JpegOutput, Output
from compositing_service.picture.patch import Patch
from service_kit.leases import Policy


class FrameCache:
    """Holds the budget, and all access to the kept frames. Thread-safe; nothing blocks."""

    def __init__(self, *, max_bytes: int, policy: Policy) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        """Bytes held for all avatars."""
        self.hits = self.misses = 0
        """Since the start: frames found and not found in memory."""
        self.evictions = 0
        """Since the start: frames, pictures and mouths of silence dropped for others."""
        self._policy = policy
        self._lock = threading.Lock()
        self._avatars: list[AvatarFrames] = []
        self._pinned_bytes = 0  # of encoded frames and mouths of silence of avatars in use

    def open(self, *, max_frames: int) -> AvatarFrames:
        """Opens room for at most `max_frames` frames of one more avatar. Raises ValueError for less than one."""
        if max_frames < 1:
            raise ValueError(f"room for {max_frames} frames of an avatar; it must be 1 or more")
        frames = AvatarFrames(max_frames)
        with self._lock:
            self._avatars.append(frames)
        return frames

    def close(self, frames: AvatarFrames) -> None:
        """Drops the avatar's frames, and keeps no more of it."""
        with self._lock:
            if not frames.closed:
                frames.closed = True
                self._avatars.remove(frames)
                while frames.encoded:
                    self._drop(frames, next(iter(frames.encoded)))
                while frames.resting:
                    self._drop_resting(frames)
                while frames.pictures:
                    self.nbytes -= frames.drop_picture()

    def pin(self, frames: AvatarFrames) -> None:
        """Marks the avatar as in use: its frames are dropped after those of others."""
        with self._lock:
            frames.pins += 1
            if frames.pins == 1:
                self._pinned_bytes += frames.lasting_bytes

    def unpin(self, frames: AvatarFrames) -> None:
        """Takes one `pin` back."""
        with self._lock:
            frames.pins -= 1
            if not frames.pins:
                self._pinned_bytes -= frames.lasting_bytes

    def rank(self, frames: AvatarFrames) -> tuple[int, int]:
        """Returns the order of dropping: the lowest rank first."""
        return (0 if self._policy == "lru" else frames.uses, frames.last_use)

    def use(self, frames: AvatarFrames, index: int, quality: int) -> EncodedFrame | None:
        """Returns the frame at that quality. Counts a use, found or not."""
        with self._lock:
            found = frames.find(index, quality)
            if found:
                frames.note_use(index)
            self._note_use(frames, found is not None)
            return found

    def at_hand(self, frames: AvatarFrames, index: int, output: JpegOutput) -> tuple[EncodedFrame | None, bytes | None]:
        """Returns the frame and its mouth of silence. Counts a use of a frame that is found."""
        with self._lock:
            found = frames.find(index, output.quality)
            if found is None:
                return None, None
            frames.note_use(index)
            self._note_use(frames, True)
            return found, frames.find_resting(index, output)

    def use_picture(self, frames: AvatarFrames, index: int) -> Picture | None:
        """Returns the whole picture. Counts a use, found or not."""
        with self._lock:
            found = frames.pictures.get(index)
            self._note_use(frames, found is not None)
            return found

    def peek(self, frames: AvatarFrames, index: int, quality: int) -> EncodedFrame | None:
        """Returns the frame at that quality without counting a use."""
        with self._lock:
            return frames.find(index, quality)

    def peek_picture(self, frames: AvatarFrames, index: int) -> Picture | None:
        """Returns the whole picture without counting a use."""
        with self._lock:
            return frames.pictures.get(index)

    def peek_patch(self, frames: AvatarFrames, index: int) -> Patch | None:
        """Returns the patch that all qualities of the frame share."""
        with self._lock:
            return frames.patch(index)

    def put(self, frames: AvatarFrames, index: int, quality: int, frame: EncodedFrame) -> None:
        """Keeps the frame if it can be made to fit."""
        with self._lock:
            self._put(frames, index, quality, frame)

    def put_ring(self, frames: AvatarFrames, index: int, ring: BorderPixels) -> None:
        """Keeps the crop's border with a frame that is kept without, if it can be made to fit."""
        with self._lock:
            patch = frames.patch(index)
            if patch is None or patch.ring or ring.nbytes + frames.frame_bytes(index) > self.max_bytes:
                return
            self._make_room(ring.nbytes, frames, keep=index)
            frames.add_ring(index, ring)
            self._note_bytes(frames, ring.nbytes)

    def put_picture(self, frames: AvatarFrames, index: int, picture: Picture) -> None:
        """Keeps the picture if there is free room, or room taken by pictures of unused avatars."""
        with self._lock:
            if frames.closed or index in frames.pictures or len(frames.pictures) >= frames.max_frames:
                return
            unused = [other for other in self._avatars if not other.pins and other is not frames]
            if self.nbytes + picture.nbytes - sum(other.picture_bytes for other in unused) > self.max_bytes:
                return
            while self.nbytes + picture.nbytes > self.max_bytes:
                self._drop_picture(unused)
            self.nbytes += frames.add_picture(index, picture)

    def find_resting(self, frames: AvatarFrames, index: int, output: Output) -> bytes | None:
        """Returns the frame's mouth of silence."""
        with self._lock:
            return frames.find_resting(index, output)

    def unrested(self, frames: AvatarFrames, indices: Iterable[int], output: Output) -> list[int]:
        """Returns the frames without a mouth of silence."""
        with self._lock:
            return frames.unrested(indices, output)

    def offer_resting(self, frames: AvatarFrames, index: int, output: Output, mouth: bytes) -> None:
        """Keeps a mouth of silence if that drops nothing of the same avatar or of one in use but whole pictures."""
        added = resting_bytes(mouth)
        with self._lock:
            if frames.closed or frames.find_resting(index, output) is not None or not self._fits(frames, added):
                return
            self._make_room(added, frames, keep=None)
            frames.add_resting(index, output, mouth)
            self._note_bytes(frames, added)

    def offer(self, frames: AvatarFrames, index: int, quality: int, frame: EncodedFrame) -> None:
        """Keeps the frame if that drops no frame of the same avatar or of one in use."""
        with self._lock:
            if self._has_room(frames, index, frames.added_bytes(index, frame)):
                self._put(frames, index, quality, frame)

    def has_room(self, frames: AvatarFrames, index: int, nbytes: int) -> bool:
        """Returns True if an offer of `nbytes` bytes would be kept now."""
        with self._lock:
            return self._has_room(frames, index, nbytes)

    def _note_use(self, frames: AvatarFrames, found: bool) -> None:
        self.hits += found
        self.misses += not found
        frames.uses += 1
        frames.last_use = self.hits + self.misses

    def _has_room(self, frames: AvatarFrames, index: int, nbytes: int) -> bool:
        fits = index in frames.encoded or len(frames.encoded) < frames.max_frames
        return fits and self._fits(frames, nbytes)

    def _fits(self, frames: AvatarFrames, nbytes: int) -> bool:
        """Returns True if `nbytes` more fit beside what the avatar and those in use hold without whole pictures."""
        lasting = self._pinned_bytes + (0 if frames.pins else frames.lasting_bytes)
        return lasting + nbytes <= self.max_bytes

    def _put(self, frames: AvatarFrames, index: int, quality: int, frame: EncodedFrame) -> None:
        added = frames.added_bytes(index, frame)
        if frames.closed or frames.find(index, quality) or added + frames.frame_bytes(index) > self.max_bytes:
            return
        if index not in frames.encoded and len(frames.encoded) >= frames.max_frames:
            self._evict_from(frames, keep=index)
        self._make_room(added, frames, keep=index)
        frames.add(index, quality, frame)
        self._note_bytes(frames, added)

    def _make_room(self, wanted: int, asking: AvatarFrames, *, keep: int | None) -> None:
        """Drops until `wanted` bytes are free. Frame `keep` of `asking` is not dropped."""
        while self.nbytes + wanted > self.max_bytes:
            if holders := [other for other in self._avatars if other.pictures]:
                self._drop_picture(holders)
            else:
                self._drop_lasting(wanted, asking, keep)

    def _drop_picture(self, avatars: Sequence[AvatarFrames]) -> None:
        """Drops a picture of one of these avatars, of an unused one if possible; at least one must have a picture."""
        holders = [frames for frames in avatars if frames.pictures]
        frames = min(holders, key=lambda frames: (frames.pins > 0, self.rank(frames)))
        self.nbytes -= frames.drop_picture()
        self.evictions += 1

    def _drop_lasting(self, wanted: int, asking: AvatarFrames, keep: int | None) -> None:
        """Drops one frame or mouth of silence to free `wanted` bytes for `asking`."""
        unused = [each for each in self._avatars if each.lasting_bytes and not each.pins and each is not asking]
        if unused:
            frames = min(unused, key=self.rank)
            if frames.encoded:
                self._evict_from(frames, keep=None)
            else:
                self._evict_resting(frames)
        elif resting := [frames for frames in self._avatars if frames.resting]:
            self._evict_resting(max(resting, key=lambda frames: frames.resting_bytes))
        else:  # counted with the wanted bytes, so that two avatars do not take from each other in turn
            holders = [frames for frames in self._avatars if len(frames.encoded) > (frames is asking and keep in frames.encoded)]
            largest = max(holders, key=lambda frames: frames.nbytes + (wanted if frames is asking else 0))
            self._evict_from(largest, keep=keep if largest is asking else None)

    def _evict_from(self, frames: AvatarFrames, *, keep: int | None) -> None:
        """Drops a frame other than `keep`, if there is one."""
        index = frames.most_dispensable(keep=keep)
        if index is not None:
            self._drop(frames, index)
            self.evictions += 1

    def _evict_resting(self, frames: AvatarFrames) -> None:
        self._drop_resting(frames)
        self.evictions += 1

    def _drop_resting(self, frames: AvatarFrames) -> None:
        """Drops a mouth of silence; there must be one."""
        self._note_bytes(frames, -frames.drop_resting())

    def _drop(self, frames: AvatarFrames, index: int) -> None:
        self._note_bytes(frames, -frames.drop(index))

    def _note_bytes(self, frames: AvatarFrames, change: int) -> None:
        """Counts a change of the avatar's frames and mouths of silence, in bytes."""
        self.nbytes += change
        if frames.pins:
            self._pinned_bytes += change
