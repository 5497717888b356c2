"""Frames of all avatars in memory, within one budget of bytes.

When room is short, there go in turn: whole pictures, which only raw output needs and which take twenty times a frame's bytes;
frames of avatars that nobody uses now, of the least used (LFU) or longest unused (LRU) avatar first; frames of the avatar that
holds most. A frame that does not fit is used and not kept.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from compositing_service.backgrounds.shelf import EncodedFrame, EvictionPolicy, Shelf, WholeFrame
from compositing_service.picture.surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """Since the start: frames found and not found in memory, frames and pictures dropped for others."""

    hits: int
    misses: int
    evictions: int


class FrameCache:
    """The budget, and all access to the shelves it gives out. Thread-safe; nothing blocks."""

    def __init__(self, *, max_bytes: int, policy: EvictionPolicy) -> None:
        self.max_bytes = max_bytes
        self._policy: EvictionPolicy = policy
        self._lock = threading.Lock()
        self._shelves: list[Shelf] = []
        self._clock = 0
        self._hits = self._misses = self._evictions = 0

    @property
    def nbytes(self) -> int:
        """Bytes held for all avatars."""
        with self._lock:
            return self._held()

    def counts(self) -> CacheCounts:
        """Figures for the metrics."""
        with self._lock:
            return CacheCounts(self._hits, self._misses, self._evictions)

    def open(self, *, max_frames: int) -> Shelf:
        """A shelf for at most so many frames of one more avatar. Raises ValueError for less than one."""
        if max_frames < 1:
            raise ValueError(f"room for {max_frames} frames of an avatar; it must be 1 or more")
        shelf = Shelf(max_frames)
        with self._lock:
            self._shelves.append(shelf)
        return shelf

    def close(self, shelf: Shelf) -> None:
        """Drops the shelf's frames, and takes no more for it."""
        with self._lock:
            if not shelf.closed:
                shelf.closed = True
                shelf.clear()
                self._shelves.remove(shelf)

    def pin(self, shelf: Shelf) -> None:
        """Says that the avatar is in use: its frames go after those of others."""
        with self._lock:
            shelf.pins += 1

    def unpin(self, shelf: Shelf) -> None:
        """Takes one `pin` back."""
        with self._lock:
            shelf.pins -= 1

    def use(self, shelf: Shelf, index: int, quality: int) -> EncodedFrame | None:
        """The frame at that quality, counted as a use whether it is there or not."""
        with self._lock:
            found = shelf.find(index, quality)
            self._note_use(shelf, index, found is not None)
            return found

    def use_picture(self, shelf: Shelf, index: int) -> WholeFrame | None:
        """The whole picture, counted likewise."""
        with self._lock:
            found = shelf.pictures.get(index)
            self._note_use(shelf, index, found is not None)
            return found

    def peek(self, shelf: Shelf, index: int, quality: int) -> EncodedFrame | None:
        """The frame at that quality, not counted."""
        with self._lock:
            return shelf.find(index, quality)

    def peek_picture(self, shelf: Shelf, index: int) -> WholeFrame | None:
        """The whole picture, not counted."""
        with self._lock:
            return shelf.pictures.get(index)

    def peek_surroundings(self, shelf: Shelf, index: int) -> Surroundings | None:
        """What all qualities of the frame share."""
        with self._lock:
            frame = shelf.frames.get(index)
            return None if frame is None else frame.surroundings

    def put(self, shelf: Shelf, index: int, quality: int, encoded: EncodedFrame) -> None:
        """Keeps the frame if it can be made to fit."""
        with self._lock:
            self._put(shelf, index, quality, encoded)

    def put_picture(self, shelf: Shelf, index: int, whole: WholeFrame) -> None:
        """Keeps the picture if room is left, or to be had from pictures of avatars that nobody uses."""
        with self._lock:
            if shelf.closed or index in shelf.pictures or len(shelf.pictures) >= shelf.max_frames:
                return
            idle = [other for other in self._shelves if not other.pins and other is not shelf]
            if self._held() + whole.nbytes - sum(other.picture_bytes for other in idle) > self.max_bytes:
                return
            while self._held() + whole.nbytes > self.max_bytes:
                self._drop_picture(idle)
            shelf.add_picture(index, whole)

    def offer(self, shelf: Shelf, index: int, quality: int, encoded: EncodedFrame) -> None:
        """Keeps the frame if that costs neither the avatar itself nor one in use a frame."""
        with self._lock:
            if self._has_room(shelf, index, shelf.added_bytes(index, encoded)):
                self._put(shelf, index, quality, encoded)

    def has_room(self, shelf: Shelf, index: int, nbytes: int) -> bool:
        """Whether an offer of so many bytes would be taken now."""
        with self._lock:
            return self._has_room(shelf, index, nbytes)

    def _held(self) -> int:
        return sum(shelf.nbytes for shelf in self._shelves)

    def _note_use(self, shelf: Shelf, index: int, found: bool) -> None:
        self._clock += 1
        shelf.note_use(index, self._clock)
        if found:
            self._hits += 1
        else:
            self._misses += 1

    def _put(self, shelf: Shelf, index: int, quality: int, encoded: EncodedFrame) -> None:
        if shelf.closed or shelf.find(index, quality) is not None:
            return
        known = shelf.frames.get(index)
        added = shelf.added_bytes(index, encoded)
        if added + (known.nbytes if known else 0) > self.max_bytes:
            return
        if known is None and len(shelf.frames) >= shelf.max_frames:
            self._drop_from(shelf, keep=index)
        self._make_room(added, shelf, index)
        shelf.add(index, quality, encoded)

    def _has_room(self, shelf: Shelf, index: int, nbytes: int) -> bool:
        lasting = sum(other.frame_bytes for other in self._shelves if other.pins or other is shelf)
        fits = index in shelf.frames or len(shelf.frames) < shelf.max_frames
        return fits and lasting + nbytes <= self.max_bytes

    def _make_room(self, nbytes: int, shelf: Shelf, index: int) -> None:
        """Drops anything but frame `index` of `shelf` until `nbytes` more fit."""
        while self._held() + nbytes > self.max_bytes:
            holders = [other for other in self._shelves if other.pictures]
            if holders:
                self._drop_picture(holders)
            else:
                self._drop_frame(shelf, index, nbytes)

    def _drop_picture(self, shelves: list[Shelf]) -> None:
        holders = [shelf for shelf in shelves if shelf.pictures]
        min(holders, key=lambda shelf: (shelf.pins > 0, shelf.rank(self._policy))).drop_picture()
        self._evictions += 1

    def _drop_frame(self, asking: Shelf, index: int, nbytes: int) -> None:
        """Drops the frame that is needed least, not frame `index` of `asking`, which wants `nbytes` more."""

        def wanted_bytes(shelf: Shelf) -> int:  # with what is asked for, lest two avatars in turn take from each other
            return shelf.nbytes + (nbytes if shelf is asking else 0)

        holders = [shelf for shelf in self._shelves if len(shelf.frames) > (shelf is asking and index in shelf.frames)]
        idle = [shelf for shelf in holders if not shelf.pins and shelf is not asking]
        shelf = min(idle, key=lambda shelf: shelf.rank(self._policy)) if idle else max(holders, key=wanted_bytes)
        self._drop_from(shelf, keep=index if shelf is asking else None)

    def _drop_from(self, shelf: Shelf, *, keep: int | None) -> None:
        victim = shelf.victim(self._policy, keep=keep)
        if victim is not None:
            shelf.drop(victim)
            self._evictions += 1
