"""Going once through all frames of a video while others wait for some of them.

What is asked for meanwhile comes first, from the keyframe before it on, and is never decoded beside the pass. So each frame is
decoded once, as long as no more runs of frames between keyframes are begun and left unfinished than `VideoFrames` has decoders.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from avatar_kit.avatar import Avatar
from avatar_kit.errors import BrokenAvatar
from avatar_kit.geometry import Picture
from avatar_kit.safe_files import FileProblem
from avatar_kit.video.frames import VideoFrames

What = TypeVar("What", bound=Hashable)


@dataclass(slots=True)
class _Stretch:
    """Frames `next` .. `stop` - 1 of one entry into the video are still to come."""

    next: int
    stop: int


@dataclass(slots=True)
class _Wish(Generic[What]):
    """Somebody waits for `missing`."""

    missing: set[int]
    what: What
    granted: Future[None]


class FramePass(Generic[What]):
    """Thread-safe. Somebody must call `step` until it returns False, and then `end`."""

    def __init__(
        self,
        avatar: Avatar,
        video: VideoFrames,
        take: Callable[[int, Picture, frozenset[What]], bool],
        *,
        is_there: Callable[[int], bool],
    ) -> None:
        """`video`: the one that the avatar's frames are in. `take` is given each frame and what was wished of it, by several
        threads at a time when several call `step`; False ends the pass. Frames that are there already are passed over.
        """
        self._avatar, self._video, self._take, self._is_there = avatar, video, take, is_there
        self._decoding = threading.Lock()
        self._stretches: list[_Stretch] | None = None  # None: not begun
        self._lock = threading.Lock()  # of what follows
        self._passed = np.zeros(avatar.frame_count, bool)
        self._wishes: dict[int, list[_Wish[What]]] = {}  # by frame, in the order of asking
        self._ended = False

    def wish(self, frames: Sequence[int], what: What) -> Future[None] | None:
        """Is done when all of these frames have been taken, or the pass has ended. None: so it is now. `what`: for `take`."""
        with self._lock:
            missing = {frame for frame in frames if not self._passed[frame]}
            if self._ended or not missing:
                return None
            wish = _Wish(missing, what, Future())
            wish.granted.set_running_or_notify_cancel()  # nobody who gives up may take it from another
            for frame in frames:
                if frame in missing:
                    self._wishes.setdefault(frame, []).append(wish)
            return wish.granted

    def step(self) -> bool:
        """Decodes the next frame and takes it. False: there is nothing left, or no more was wanted. Blocks.

        Raises BrokenAvatar for a frame that can not be read; the pass goes on at the next one.
        """
        with self._decoding:
            frame = self._choose()
            while frame is not None and not self._wished_of(frame) and self._is_there(frame):
                self._note_passed(frame)
                frame = self._choose()
            if frame is None:
                return False
            picture = self._read(frame)
        try:
            goes_on = self._take(frame, picture, self._wished_of(frame))
        finally:
            self._note_passed(frame)
        if not goes_on:
            self.end()
        return goes_on

    def end(self) -> None:
        """Nobody has to wait for it any more. The video is let go of."""
        with self._lock:
            self._ended = True
            wishes = [wish for asked in self._wishes.values() for wish in asked]
            self._wishes.clear()
            for wish in wishes:
                if not wish.granted.done():
                    wish.granted.set_result(None)
        self._video.close()

    def _read(self, frame: int) -> Picture:
        try:
            return self._avatar.read_frame(frame)
        except BrokenAvatar:
            self._note_passed(frame)
            raise

    def _choose(self) -> int | None:
        """The frame that comes next: on the way to the one that was wished for first, else where the pass is anyway."""
        if self._ended:
            return None
        if self._stretches is None:
            self._stretches = self._whole_video()
        with self._lock:
            wished = iter(self._wishes)
            stretch = next((found for frame in wished if (found := _stretch_of(frame, self._stretches))), None)
        stretch = stretch or next(iter(self._stretches), None)
        if stretch is None:
            return None
        stretch.next += 1
        if stretch.next == stretch.stop:
            self._stretches.remove(stretch)
        return stretch.next - 1

    def _whole_video(self) -> list[_Stretch]:
        try:
            starts = self._video.starts()
        except FileProblem as problem:
            self.end()
            raise BrokenAvatar(problem.of(self._video.name(0))) from None
        count = self._avatar.frame_count  # it may be that not all of the video is served
        ends = [*starts[1:], self._video.count]
        return [_Stretch(start, min(end, count)) for start, end in zip(starts, ends, strict=True) if start < count]

    def _wished_of(self, frame: int) -> frozenset[What]:
        with self._lock:
            return frozenset(wish.what for wish in self._wishes.get(frame, ()))

    def _note_passed(self, frame: int) -> None:
        with self._lock:
            self._passed[frame] = True
            for wish in self._wishes.pop(frame, ()):
                wish.missing.discard(frame)
                if not wish.missing:
                    wish.granted.set_result(None)


def _stretch_of(frame: int, stretches: Sequence[_Stretch]) -> _Stretch | None:
    """Where a frame is still to come; None when it is being taken."""
    return next((stretch for stretch in stretches if stretch.next <= frame < stretch.stop), None)
