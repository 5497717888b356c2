"""Makes an avatar's crops once, as uint8 planes that its network takes, and keeps them where the network runs.

Beside each crop it keeps the border that was cut off it, with which a mouth is resized to its rectangle.
Pictures are read when a request first needs them, so that an avatar serves at once; `fill` makes the rest, in order. On a CPU the
bank's own memory is the network's input. On a GPU the crops are copied to an arena that all avatars there share
(`engines.crop_arena`), as far as it has room; without one, a run carries its crops along.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.border import BorderPixels
from avatar_kit.errors import BrokenAvatar
from avatar_kit.fitting import CROP_BORDER_BYTES, crop_border
from avatar_kit.geometry import MOUTH_SIZE, Picture, Rect, crop_328, inner
from inference_service.engines.crop_arena import CROP_BYTES, CropArena
from inference_service.engines.device_copies import Placed
from inference_service.engines.devices import Device


class Feed(NamedTuple):
    """The crops for a run."""

    bank: Placed | NDArray[np.uint8]  # [slots, 3, 320, 320]
    slots: NDArray[np.int64]  # [n], of the frames
    reference: NDArray[np.int64]  # [1], the slot of the avatar's reference frame; 0 where it has none


class CropBank:
    """uint8 [frame_count, 3, 320, 320] crops of one avatar on one device. Thread-safe.

    Frames are indices of the clip here. The avatar's reference frame is always among those that are made or fed.
    """

    def __init__(self, avatar: Avatar, device: Device, *, arena: CropArena | None = None) -> None:
        """`arena`: of the device, where the runs find the crops."""
        self._avatar = avatar
        self.device = device
        self.arena = arena
        self._owner = object()  # of slots in the arena
        if arena:
            weakref.finalize(self, arena.forget, self._owner)
        self._reference = [] if avatar.reference_frame is None else [avatar.reference_frame]
        # Pages of frames that no request needed are never touched and cost nothing.
        self._host: NDArray[np.uint8] = np.empty((avatar.frame_count, 3, MOUTH_SIZE, MOUTH_SIZE), np.uint8)
        self._ready = np.zeros(avatar.frame_count, bool)
        self._borders: list[BorderPixels | None] = [None] * avatar.frame_count
        self._locks = [threading.Lock() for _ in range(8)]

    @property
    def frame_count(self) -> int:
        """The avatar's pictures."""
        return len(self._ready)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the crops made so far and of their borders, in the process."""
        return int(self._ready.sum()) * (CROP_BYTES + CROP_BORDER_BYTES)

    @property
    def device_bytes(self) -> int:
        """Bytes of these in the device's own memory: on a GPU none, as the arena counts apart."""
        return 0 if self.device.is_gpu else self.memory_bytes

    def missing(self, frames: Sequence[int]) -> list[int]:
        """Returns those of `frames` that `ensure` would have to make."""
        return [frame for frame in dict.fromkeys([*frames, *self._reference]) if not self._ready[frame]]

    def ensure(self, frames: Sequence[int]) -> None:
        """Makes the crops of `frames` that are missing. Blocking. Raises BrokenAvatar for a frame that cannot be read."""
        for frame in sorted(self.missing(frames)):
            self._ensure(frame, partial(self._avatar.read_frame, frame))

    def fill(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Makes every crop, and copies it to the arena while that has room; ends early when `goes_on` returns False. Blocking.

        Raises BrokenAvatar when some frames cannot be read.
        """
        problems: list[str] = []
        with closing(self._avatar.frames_in_order()) as frames:
            for frame, read in frames:
                if not goes_on():
                    return
                try:
                    self._ensure(frame, read)
                except BrokenAvatar as error:
                    problems += error.problems
                    continue
                if self.arena:
                    self.arena.hold(self._owner, frame, self._host[frame])
        if problems:
            raise BrokenAvatar(list(dict.fromkeys(problems)))

    @contextmanager
    def fed(self, frames: NDArray[np.int64]) -> Iterator[Feed]:
        """Gives a bank and the slots of `frames` in it, until the end of the block. `ensure` must have made them."""
        if not self.device.is_gpu and self.arena is None:
            yield Feed(self._host, frames, np.array(self._reference or [0], np.int64))
            return
        count, along = len(frames), [*frames.tolist(), *self._reference]
        if self.arena:
            with self.arena.lent(self._owner, along, self._host.__getitem__) as slots:
                if slots is not None:
                    yield Feed(self.arena.bank, slots[:count], slots[-1:])
                    return
        last = np.array([len(along) - 1], np.int64)
        yield Feed(self._host[along], np.arange(count, dtype=np.int64), last)

    def rect(self, frame: int) -> Rect:
        """Returns the frame's rectangle."""
        return self._avatar.rects[frame]

    def border(self, frame: int) -> BorderPixels | None:
        """Returns the border of the frame's 328 crop; None while the crop is missing."""
        return self._borders[frame]

    def _ensure(self, frame: int, read: Callable[[], Picture]) -> None:
        with self._locks[frame % len(self._locks)]:
            if self._ready[frame]:
                return
            crop = crop_328(read(), self._avatar.rects[frame])
            self._host[frame] = inner(crop).transpose(2, 0, 1)
            self._borders[frame] = crop_border(crop)
            self._ready[frame] = True
